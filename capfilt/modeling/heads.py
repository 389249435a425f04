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
from capfilt.modeling.med.network import MED, with_first
from capfilt.modeling.soho.network import SOHO

Grounding = MED | CoCa | SOHO
"""Networks that read a text together with a picture."""
STD = 0.02


@dataclass(frozen=True)
class Examples:
    """One batch that a head learns from."""

    inputs: Tensor
    """Tokens [B, N, D] of a frozen encoder, or pixels [B, I, 3, H, W]."""
    labels_BK: Tensor
    """int64, one column per head."""
    ids_BT: Tensor | None = None
    mask_BT: Tensor | None = None


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

    def scores(self, batch: Examples) -> list[Tensor]:
        return self.forward(batch.inputs)


class JointClassifier(nn.Module):
    """A text with one picture (VQA, entailment), or with each of two (two-image reasoning): class scores.

    CoCa: a pooler with one query over the decoder's outputs, then linear (appendix B). SOHO: linear on the joint state of [CLS]
    (section 4.3). MED: two layers on the state of [ENC], as BLIP's code ends its NLVR2. Of two pictures each is read with the
    text by itself, and what comes out is put side by side (SOHO's and CoCa's form; BLIP merges inside its layers).
    """

    def __init__(self, network: Grounding, classes: int, *, images: int = 1) -> None:
        super().__init__()
        self.network = network
        self.images = images
        width = network.config.text.width
        self.pooler: AttentionalPooler | None = None
        match network:
            case CoCa():
                self.pooler = AttentionalPooler(width, width, network.config.multimodal.heads, 1)
                self.classifier: nn.Module = nn.Linear(images * width, classes)
            case SOHO():
                self.classifier = nn.Linear(images * width, classes)
            case MED():
                self.classifier = nn.Sequential(nn.Linear(images * width, width), nn.ReLU(), nn.Linear(width, classes))
            case _:
                assert_never(network)
        initialise(self.classifier, STD)

    def forward(self, pixels_BICHW: Tensor, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, C]."""
        ids_RT, mask_RT = (x.repeat_interleave(self.images, 0) for x in (ids_BT, mask_BT))
        states_RD = self.joint(pixels_BICHW.flatten(0, 1), ids_RT, mask_RT)
        scores_BC: Tensor = self.classifier(states_RD.view(len(ids_BT), -1))
        return scores_BC

    def joint(self, pixels_RCHW: Tensor, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """[R, D]: each text together with its picture."""
        network = self.network
        match network:
            case CoCa():
                assert self.pooler is not None
                states_RTD = network.joint_features(ids_RT, mask_RT, network.encode_image(pixels_RCHW))
                pooled_R1D: Tensor = self.pooler(states_RTD, mask_RT)
                return pooled_R1D[:, 0]
            case SOHO():
                return network.states(ids_RT, mask_RT, network.encode_image(pixels_RCHW), first_only=True)[:, 0]
            case MED():
                image_kv = network.text_encoder.image_kv(network.encode_image(pixels_RCHW))
                ids_RT = with_first(ids_RT, network.config.text.enc_id)
                states_R1D: Tensor = network.text_encoder(ids_RT, mask_RT, image_kv, first_only=True)
                return states_R1D[:, 0]
            case _:
                assert_never(network)

    def scores(self, batch: Examples) -> list[Tensor]:
        assert batch.ids_BT is not None
        assert batch.mask_BT is not None
        return [self(batch.inputs, batch.ids_BT, batch.mask_BT)]


class HeadTraining(nn.Module):
    """What the training loop asks: the sum of the heads' cross-entropies, `ce`."""

    def __init__(self, head: PooledHeads | JointClassifier) -> None:
        super().__init__()
        self.head = head

    def set_progress(self, step: int, steps_per_ramp: int) -> None:
        """Nothing depends on the step."""

    def losses(self, batch: Examples) -> dict[str, Tensor]:
        scores = self.head.scores(batch)
        each = [F.cross_entropy(x_BC.float(), labels_B) for x_BC, labels_B in zip(scores, batch.labels_BK.T, strict=True)]
        return {"ce": torch.stack(each).sum()}
