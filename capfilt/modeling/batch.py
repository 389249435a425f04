"""What a network is trained on: one batch of image-text pairs as tensors.

Knows nothing of where the pairs come from.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """B pairs; pair i is image i with text i."""

    pixels_BCHW: Tensor
    """float32, normalised by the architecture's mean and standard deviation."""
    ids_BT: Tensor
    """int64 as the tokenizer gives them: [CLS] ... [SEP], padding on the right; T should be the batch's longest."""
    mask_BT: Tensor
    """int64, 1 for tokens and 0 for padding."""
    image_ids_B: Tensor
    """int64; pairs of one image share theirs. Only the filter's fine-tuning reads it. Not -1."""

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(*(x.to(device, non_blocking=True) for x in (self.pixels_BCHW, self.ids_BT, self.mask_BT, self.image_ids_B)))
