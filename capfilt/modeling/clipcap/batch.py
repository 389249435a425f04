"""What a captioner over stored embeddings is trained on: a batch without pictures.

Knows nothing of where the embeddings come from.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from capfilt.errors import ContractError
from capfilt.modeling.batch import Batch, as_batch, known_names

EMBEDS = ("embeds", "embed", "image_embeds", "embedding", "prefix", "clip_embedding")
"""Names under which a dictionary may bring embeddings: ours, the line's column, the published code's."""


@dataclass(frozen=True)
class EmbeddedBatch:
    """B pairs; pair i is embedding i with text i."""

    embed_BE: Tensor
    """float32, as the image side gives it."""
    ids_BT: Tensor
    """int64 as the tokenizer gives them, padding on the right."""
    mask_BT: Tensor
    """int64, 1 for tokens and 0 for padding."""

    def to(self, device: torch.device | str) -> "EmbeddedBatch":
        return EmbeddedBatch(*(x.to(device, non_blocking=True) for x in (self.embed_BE, self.ids_BT, self.mask_BT)))


def as_embedded(tensors: Mapping[str, Tensor]) -> EmbeddedBatch | Batch:
    """From `embeds` or `pixels`, `ids` (or `tokens`) and, where given, `mask`: of the text, or of prefix and text.

    Raises:
        ContractError: If there is neither embedding nor picture, or no text.
    """
    tensors = known_names(tensors)
    ids_BT = tensors.get("ids")
    name = next((name for name in EMBEDS if name in tensors), None)
    if ids_BT is None or (name is None and "pixels" not in tensors):
        found = ", ".join(tensors) or "nothing"
        raise ContractError(f"batch: expected `embeds` or `pixels`, and `ids`, found {found}; give them")
    mask_BT = tensors.get("mask")
    mask_BT = torch.ones_like(ids_BT) if mask_BT is None else mask_BT[:, mask_BT.shape[1] - ids_BT.shape[1] :]
    if name is None:
        return as_batch({**tensors, "ids": ids_BT, "mask": mask_BT})
    return EmbeddedBatch(tensors[name], ids_BT, mask_BT)
