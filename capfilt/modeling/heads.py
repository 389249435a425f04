"""Heads for uses downstream: classifiers of pooled tokens, and of a text together with one picture or two.

Knows networks and labels as numbers; nothing of files, of what labels mean, or of how heads are trained.

Axes at the end of tensor names: B rows, I images of a row, N tokens, D their width, T text tokens, K heads, C classes, F frames,
P pooler width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.modeling.coca.image import AttentionalPooler
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.layers import initialise
from capfilt.modeling.losses import lm_labels, lm_loss
from capfilt.modeling.med.network import MED, with_first
from capfilt.modeling.med.two_images import MedTwoImages
from capfilt.modeling.soho.network import SOHO

Grounding = MED | CoCa | SOHO
"""Networks that read a text together with a picture."""
STD = 0.02
ANSWER_DROPOUT = 0.5
"""Of SOHO's answer classifier, in its code."""


@dataclass(frozen=True)
class Examples:
    """One batch that a head learns from."""

    inputs: Tensor
    """Tokens [B, N, D] of a frozen encoder, or pixels [B, I, 3, H, W]."""
    labels_BK: Tensor
    """int64, one column per head."""
    ids_BT: Tensor | None = None
    mask_BT: Tensor | None = None
    written: tuple[Tensor, Tensor] | None = None
    """Ids and mask of texts that a CoCa also learns to write."""


class PooledHeads(nn.Module):
    """For each of K labels a pooler with one query and a linear classifier, on tokens that all share (CoCa section 3.3).

    Args:
        frames: F; above 0, a learned vector per frame is added to the tokens of each (they come frame by frame).
    """

    def __init__(self, token_width: int, classes: Sequence[int], *, width: int | None, heads: int, frames: int = 0) -> None:
        super().__init__()
        width = width or token_width
        self.frames = nn.Parameter(torch.zeros(frames, token_width)) if frames else None
        self.poolers = nn.ModuleList(AttentionalPooler(token_width, width, heads, 1) for _ in classes)
        self.classifiers = nn.ModuleList(nn.Linear(width, count) for count in classes)
        if self.frames is not None:
            nn.init.normal_(self.frames, std=STD)

    def forward(self, tokens_BND: Tensor) -> list[Tensor]:
        """[B, C] of each head."""
        if self.frames is not None:
            tokens_BND = tokens_BND + self.frames.repeat_interleave(tokens_BND.shape[1] // len(self.frames), 0)
        pooled = [pooler(tokens_BND)[:, 0] for pooler in self.poolers]
        return [classify(x_BP) for classify, x_BP in zip(self.classifiers, pooled, strict=True)]

    def losses(self, batch: Examples) -> dict[str, Tensor]:
        """`ce`: the sum of the heads' cross-entropies."""
        scores = self.forward(batch.inputs)
        each = [F.cross_entropy(x_BC.float(), labels_B) for x_BC, labels_B in zip(scores, batch.labels_BK.T, strict=True)]
        return {"ce": torch.stack(each).sum()}


class JointClassifier(nn.Module):
    """A text with one picture (VQA, entailment), or with each of two (two-image reasoning): class scores.

    CoCa: a pooler with one query over the decoder's outputs, then linear (appendix B). SOHO: linear on the joint state of [CLS];
    for answers two layers, as its code has them (section 4.3). MED: two layers on the state of [ENC], as in BLIP's code.

    Args:
        images: Pictures of a row.
        answers: The classes are answers to questions: a SOHO's scores are then independent of each other (binary cross-entropy).
        merged: Of a MED with two pictures: both are read in one pass (`med.two_images`), BLIP's form. Else each is read with
            the text by itself, and what comes out is put side by side, CoCa's and SOHO's form.
    """

    def __init__(self, network: Grounding, classes: int, *, images: int = 1, answers: bool = False, merged: bool = False) -> None:
        super().__init__()
        self.network = network
        self.images = images
        self.is_binary = answers and isinstance(network, SOHO)
        width = network.config.text.width
        self.pooler: AttentionalPooler | None = None
        self.twins = MedTwoImages(network) if merged and isinstance(network, MED) else None
        states = images * width if self.twins is None else width
        match network:
            case CoCa():
                self.pooler = AttentionalPooler(width, width, network.config.multimodal.heads, 1)
                self.classifier: nn.Module = nn.Linear(states, classes)
            case SOHO() if answers:
                self.classifier = nn.Sequential(
                    nn.Linear(states, 4 * width), nn.ReLU(), nn.Dropout(ANSWER_DROPOUT), nn.Linear(4 * width, classes)
                )
            case SOHO():
                self.classifier = nn.Linear(states, classes)
            case MED():
                self.classifier = nn.Sequential(nn.Linear(states, width), nn.ReLU(), nn.Linear(width, classes))
            case _:
                assert_never(network)
        initialise(self.classifier, STD)
        if self.is_binary:
            for part in self.classifier.modules():
                if isinstance(part, nn.Linear):
                    nn.init.kaiming_normal_(part.weight)

    def forward(self, pixels_BICHW: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, C]."""
        return self.classes(self.network.encode_image(pixels_BICHW.flatten(0, 1)), ids_BT, mask_BT)

    def classes(self, embeds_RND: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, C], from what the network's `encode_image` gives of each picture, row by row."""
        if self.twins is not None:
            embeds_BIND = embeds_RND.view(len(ids_BT), self.images, *embeds_RND.shape[1:])
            states_BD = self.twins(ids_BT, mask_BT, embeds_BIND[:, 0], embeds_BIND[:, 1])
        else:
            ids_RT, mask_RT = (x.repeat_interleave(self.images, 0) for x in (ids_BT, mask_BT))
            states_BD = self.joint(embeds_RND, ids_RT, mask_RT).view(len(ids_BT), -1)
        scores_BC: Tensor = self.classifier(states_BD)
        return scores_BC

    def joint(self, embeds_RND: Tensor, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """[R, D]: each text together with its picture."""
        network = self.network
        match network:
            case CoCa():
                assert self.pooler is not None
                states_RTD = network.joint_features(ids_RT, mask_RT, embeds_RND)
                pooled_R1D: Tensor = self.pooler(states_RTD, mask_RT)
                return pooled_R1D[:, 0]
            case SOHO():
                return network.states(ids_RT, mask_RT, embeds_RND, first_only=True)[:, 0]
            case MED():
                image_kv = network.text_encoder.image_kv(embeds_RND)
                ids_RT = with_first(ids_RT, network.config.text.enc_id)
                states_R1D: Tensor = network.text_encoder(ids_RT, mask_RT, image_kv, first_only=True)
                return states_R1D[:, 0]
            case _:
                assert_never(network)

    def scores(self, batch: Examples) -> list[Tensor]:
        assert batch.ids_BT is not None
        assert batch.mask_BT is not None
        return [self(batch.inputs, batch.ids_BT, batch.mask_BT)]

    def losses(self, batch: Examples) -> dict[str, Tensor]:
        """`ce`, or of a SOHO's answers `bce`, the sum over answers; with `batch.written` a CoCa's `lm` too."""
        assert batch.ids_BT is not None
        assert batch.mask_BT is not None
        embeds_RND = self.network.encode_image(batch.inputs.flatten(0, 1))
        scores_BC = self.classes(embeds_RND, batch.ids_BT, batch.mask_BT).float()
        labels_B = batch.labels_BK[:, 0]
        if self.is_binary:
            targets_BC = F.one_hot(labels_B, scores_BC.shape[1]).float()
            total = F.binary_cross_entropy_with_logits(scores_BC, targets_BC, reduction="sum")
            return {"bce": total / len(labels_B)}
        found = {"ce": F.cross_entropy(scores_BC, labels_B)}
        if batch.written is not None:
            assert isinstance(self.network, CoCa)
            ids_BT, mask_BT = batch.written
            logits_BTV = self.network.lm_logits(ids_BT[:, :-1], mask_BT[:, :-1], embeds_RND)
            labels_BT = lm_labels(ids_BT, mask_BT, 0)
            found["lm"] = lm_loss(logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), smoothing=0.0)
        return found


class HeadTraining(nn.Module):
    """What the training loop asks of a head."""

    def __init__(self, head: PooledHeads | JointClassifier) -> None:
        super().__init__()
        self.head = head

    def set_progress(self, step: int, steps_per_ramp: int) -> None:
        """Nothing depends on the step."""

    def losses(self, batch: Examples) -> dict[str, Tensor]:
        return self.head.losses(batch)
