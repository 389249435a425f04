"""What a network is trained on: one batch of image-text pairs as tensors.

Knows nothing of where the pairs come from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from capfilt.errors import ContractError


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


NAMES = {
    "pixels": ("pixel_values", "images", "image"),
    "ids": ("input_ids", "text_ids", "tokens"),
    "mask": ("attention_mask", "text_mask"),
    "image_ids": ("idx", "image_id"),
}
"""The tensors of a batch, and what others call them."""


def known_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under our names; names that nobody knows stay as they are."""
    ours = {other: name for name, others in NAMES.items() for other in others}
    return {ours.get(name, name): tensor for name, tensor in tensors.items() if name in NAMES or ours.get(name) not in tensors}


def as_batch(tensors: Mapping[str, Tensor]) -> Batch:
    """From `pixels`, `ids`, `mask` and, where given, `image_ids`; without them every pair is an image of its own.

    Raises:
        ContractError: If one is missing, under our name and under others'.
    """
    tensors = known_names(tensors)
    missing = [name for name in ("pixels", "ids", "mask") if name not in tensors]
    if missing:
        raise ContractError(
            f"batch: expected pixels, ids and mask, found {', '.join(tensors) or 'nothing'}; give {', '.join(missing)} too"
        )
    ids_BT = tensors["ids"]
    image_ids_B = tensors.get("image_ids")
    if image_ids_B is None:
        image_ids_B = torch.arange(len(ids_BT), device=ids_BT.device)
    return Batch(tensors["pixels"], ids_BT, tensors["mask"], image_ids_B.flatten())
