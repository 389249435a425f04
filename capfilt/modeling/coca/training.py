"""What a CoCa learns from: contrastive and captioning loss together, or one of them in fine-tuning (CoCa sections 3.2 and 4.2).

Answers `losses(batch)` by name; knows nothing of optimisers, schedules or data. Labels of annotated pictures are texts like any
other: a batch may mix both.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.errors import ConfigError
from capfilt.modeling.batch import Batch
from capfilt.modeling.coca.network import CoCa, CocaLoss

LARGEST_SCALE = math.log(100)
"""Of the logarithm of the inverse temperature, as in CLIP and open_clip; the smallest is 0."""


class CocaTraining(nn.Module):
    """Pre-training: both losses. Captioner: `losses=("lm",)`. Filter: `losses=("itc",)`, `positives="image"`."""

    possible: tuple[str, ...] = get_args(CocaLoss)

    def __init__(
        self,
        model: CoCa,
        *,
        losses: Sequence[CocaLoss] = ("itc", "lm"),
        positives: Literal["pair", "image"] = "pair",
        prompt_length: int = 0,
    ) -> None:
        """`positives`, `prompt_length`: as in `CoCa.losses`. What no asked loss reaches gets no gradient."""
        super().__init__()
        unknown = sorted(set(losses) - set(self.possible))
        if unknown or not losses:
            raise ConfigError(f"losses: expected some of {', '.join(self.possible)}, found {list(losses)}; correct the names")
        self.model = model
        self.asked = tuple(losses)
        self.positives: Literal["pair", "image"] = positives
        self.prompt_length = prompt_length

    def set_progress(self, step: int, steps_per_ramp: int) -> None:
        """Nothing ramps here."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, LARGEST_SCALE)
        width = self.model.padded_to
        if "itc" in self.asked and width is not None:  # as a filter pads; the longest text of a batch is another place for [CLS]
            room, pad_id = (0, width - batch.ids_BT.shape[1]), self.model.config.text.pad_id
            batch = replace(batch, ids_BT=F.pad(batch.ids_BT, room, value=pad_id), mask_BT=F.pad(batch.mask_BT, room))
        return self.model.losses(batch, names=self.asked, positives=self.positives, prompt_length=self.prompt_length)
