"""What a MED contrasts with: momentum copies, queues, hard negatives; for pre-training and the filter's fine-tuning alike.

What is made of it stands in `training`. All that a resumed run needs (momentum copy, queues, the state of the generator that
draws negatives) is in the state dict. docs/paper_map.md says which term is whose.

Axes at the end of tensor names: B pairs (this worker's), A all pairs that are contrasted (with several workers and
`negatives: global` everyone's, else B), K candidates (those, then the queue), T tokens, E common space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from capfilt.errors import ConfigError
from capfilt.modeling.batch import Batch
from capfilt.modeling.layers import KeysValues
from capfilt.modeling.losses import IGNORED, LossName, Negatives, draw_negatives, itm_loss, lm_labels
from capfilt.modeling.med.momentum import FeatureQueue, MomentumEncoders
from capfilt.modeling.med.network import MED, take_images
from capfilt.modeling.ranks import Ranks


class MedObjective(nn.Module):
    """What a MED learns from; its image encoder may be frozen."""

    def __init__(self, model: MED) -> None:
        super().__init__()
        self.model = model
        self.trunk_is_frozen = False

    def freeze_trunk(self) -> None:
        """From now on the image encoder learns nothing, and its running means stay (`finetune.trunk: shared`)."""
        self.trunk_is_frozen = True
        self.model.vision.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.trunk_is_frozen:
            self.model.vision.eval()
        return self


@dataclass(frozen=True)
class Contrast:
    """Similarities divided by the temperature, and the momentum features to enqueue."""

    online_i2t_BK: Tensor
    online_t2i_BK: Tensor
    momentum_i2t_BK: Tensor
    momentum_t2i_BK: Tensor
    image_BE: Tensor
    text_BE: Tensor
    image_m_BE: Tensor
    text_m_BE: Tensor


class MedContrast(MedObjective):
    """What pre-training and the filter's fine-tuning have in common: momentum, queue, alpha, matching on hard negatives.

    With several workers the queue holds everyone's features. Contrast and negatives are among a worker's own pairs (`local`), or
    among everyone's (`global`): then the mean over the workers of each loss but LM is the loss of one worker with all pairs.
    """

    def __init__(
        self,
        model: MED,
        *,
        losses: Sequence[LossName] | None = None,
        seed: int = 0,
        ranks: Ranks = Ranks(),
        negatives: Literal["local", "global"] = "local",
    ) -> None:
        """`losses`: None is every possible one."""
        super().__init__(model)
        losses = self.possible if losses is None else losses
        unknown = sorted(set(losses) - set(self.possible))
        if unknown or not losses:
            raise ConfigError(f"losses: expected some of {', '.join(self.possible)}, found {list(losses)}; correct the names")
        self.asked = frozenset(losses)
        self.momentum = MomentumEncoders(model)
        self.generator = torch.Generator().manual_seed(seed)
        self.queue = FeatureQueue(model.config.queue_size, model.config.embed_dim, self.generator)
        self.alpha = model.config.alpha
        self.part = 0
        self.ranks = ranks
        self.crowd = ranks if negatives == "global" else Ranks()
        if negatives == "local" and ranks.rank:  # draws of its own; the queue above began as everyone's
            self.generator.manual_seed(seed + ranks.rank)

    possible: tuple[LossName, ...] = get_args(LossName)

    def set_progress(self, step: int, steps_per_ramp: int, part: int = 0) -> None:
        """Alpha grows linearly from 0 to the architecture's over `steps_per_ramp` steps (BLIP: two epochs; filter: one).

        `part`: of a batch that is computed in parts. The momentum copy moves before the first, the queue after each.
        """
        self.alpha = self.model.config.alpha * min(1.0, step / max(1, steps_per_ramp))
        self.part = part

    def terms(self, batch: Batch) -> dict[str, int]:
        """LM is a mean over the tokens that are learnt; the others, over pairs."""
        return {"lm": learnt_tokens(batch)}

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.generator.set_state(state.cpu())

    def contrast(self, batch: Batch, image_embeds_BND: Tensor) -> Contrast:
        """Moves the momentum copy on, before the first part of a batch."""
        model = self.model
        image_BE = model.image_features(image_embeds_BND).float()
        text_BE = model.text_features(batch.ids_BT, batch.mask_BT).float()
        if self.part == 0:
            self.momentum.update(model)
        # A frozen encoder's moving average is itself.
        seen_BND = image_embeds_BND if self.trunk_is_frozen else None
        image_m_BE, text_m_BE = self.momentum.features(batch.pixels_BCHW, batch.ids_BT, batch.mask_BT, seen_BND)
        # In bfloat16 a cosine has two digits, and the temperature multiplies its error by 14.
        with torch.autocast(image_BE.device.type, enabled=False):
            texts_EK = torch.cat([self.crowd.gather(text_m_BE), self.queue.text_QE]).T / model.temp
            images_EK = torch.cat([self.crowd.gather(image_m_BE), self.queue.image_QE]).T / model.temp
            with torch.no_grad():
                momentum = (image_m_BE @ texts_EK, text_m_BE @ images_EK)
            online = (image_BE @ texts_EK, text_BE @ images_EK)
        return Contrast(*online, *momentum, image_BE, text_BE, image_m_BE, text_m_BE)

    def enqueue(self, contrast: Contrast, image_ids_B: Tensor) -> None:
        """Everyone's features, in the batch's order, so that all workers have one queue."""
        features = (contrast.image_m_BE, contrast.text_m_BE, image_ids_B)
        self.queue.enqueue(*(self.ranks.gather(x) for x in features))

    def clamp_temperature(self) -> None:
        with torch.no_grad():
            self.model.temp.clamp_(0.001, 0.5)

    def matching(
        self,
        batch: Batch,
        image_embeds_BND: Tensor,
        image_kv: list[KeysValues],
        log_i2t_BA: Tensor,
        log_t2i_BA: Tensor,
        negatives: Negatives | None = None,
    ) -> Tensor:
        """ITM on 3 B rows: own pairs; each text with a negative image; each image with a negative text."""
        device = batch.ids_BT.device
        own_B = torch.arange(len(batch.ids_BT))
        if negatives is None:
            # Everyone draws for all rows, from generators in the same state, and keeps its own.
            image_A, has_image_A = draw_negatives(self.crowd.gather(log_t2i_BA).cpu(), self.generator)
            text_A, has_text_A = draw_negatives(self.crowd.gather(log_i2t_BA).cpu(), self.generator)
        else:
            image_A, text_A = (index.cpu() for index in negatives)
            has_image_A = has_text_A = torch.ones_like(image_A, dtype=torch.bool)
        mine_B = self.crowd.rows(len(own_B))
        negative_image_B, negative_text_B = image_A[mine_B], text_A[mine_B]
        ids_RT, mask_RT = batch.ids_BT, batch.mask_BT
        if self.crowd.size > 1:  # what was drawn is fetched, and stands behind the own images and texts
            ids_AT, mask_AT = self.crowd.gather_texts(ids_RT, mask_RT, self.model.config.text.pad_id)
            at_B = mine_B.to(device)
            drawn_B = negative_text_B.to(device)
            ids_RT, mask_RT = (torch.cat([x[at_B], x[drawn_B]]) for x in (ids_AT, mask_AT))
            drawn_BND = self.crowd.gather_learning(image_embeds_BND)[negative_image_B.to(device)]
            drawn_kv = self.model.text_encoder.image_kv(drawn_BND)
            image_kv = [(torch.cat([k, k_]), torch.cat([v, v_])) for (k, v), (k_, v_) in zip(image_kv, drawn_kv, strict=True)]
            negative_image_B = negative_text_B = own_B + len(own_B)
        rows = torch.cat([own_B, own_B, negative_text_B]).to(device)
        images = torch.cat([own_B, negative_image_B, own_B]).to(device)
        logits_R2 = self.model.itm_logits_from(ids_RT, mask_RT, take_images(image_kv, images), rows)
        none_B = torch.full_like(own_B, IGNORED)
        labels_R = torch.cat(
            [torch.ones_like(own_B), none_B.where(~has_image_A[mine_B], 0), none_B.where(~has_text_A[mine_B], 0)]
        )
        loss = itm_loss(logits_R2.float(), labels_R.to(device))
        if self.crowd.size == 1:
            return loss
        kept, kept_by_all = int((labels_R != IGNORED).sum()), len(image_A) + int(has_image_A.sum()) + int(has_text_A.sum())
        return loss * (kept * self.crowd.size / kept_by_all)


def learnt_tokens(batch: Batch, prompt_length: int = 0) -> int:
    """Tokens that `language_loss` is a mean over."""
    return int((lm_labels(batch.ids_BT, batch.mask_BT, prompt_length) != IGNORED).sum())
