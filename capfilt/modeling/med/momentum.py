"""The slowly moving copy of a MED's unimodal encoders, and the queue of its past features (MoCo; BLIP section 3.1).

Know nothing of losses.

Axes at the end of tensor names: B pairs, E common space, Q queue.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.modeling.med.network import MED


class MomentumEncoders(nn.Module):
    """Copies of image encoder, text encoder and both projections: what momentum features need, and no more."""

    def __init__(self, model: MED) -> None:
        super().__init__()
        self.momentum = model.config.momentum
        self.vision = copy.deepcopy(model.vision)
        self.text_encoder = copy.deepcopy(model.text_encoder)
        for layer in self.text_encoder.in_order():
            layer.cross = None
        self.image_projection = copy.deepcopy(model.image_projection)
        self.text_projection = copy.deepcopy(model.text_projection)
        self.requires_grad_(False)

    def _pairs(self, model: MED) -> tuple[list[Tensor], list[Tensor]]:
        online = dict(model.named_parameters())
        mine = dict(self.named_parameters())
        return list(mine.values()), [online[name].detach() for name in mine]

    @torch.no_grad()
    def update(self, model: MED) -> None:
        """copy <- momentum * copy + (1 - momentum) * model, in place."""
        mine, online = self._pairs(model)
        torch._foreach_mul_(mine, self.momentum)
        torch._foreach_add_(mine, online, alpha=1 - self.momentum)

    @torch.no_grad()
    def features(
        self, pixels_BCHW: Tensor, ids_BT: Tensor, mask_BT: Tensor, seen_BND: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Image and text features, each [B, E], unit norm, float32; `seen_BND` takes the place of the pictures' encoding."""
        image_BND = self.vision(pixels_BCHW, first_only=True) if seen_BND is None else seen_BND
        image_BE = self.image_projection(image_BND[:, 0])
        text_BE = self.text_projection(self.text_encoder(ids_BT, mask_BT, first_only=True)[:, 0])
        return F.normalize(image_BE.float(), dim=-1), F.normalize(text_BE.float(), dim=-1)


class FeatureQueue(nn.Module):
    """The last `size` momentum features with their image ids; random unit vectors, of no image (-1), before they are filled."""

    image_QE: Tensor
    text_QE: Tensor
    image_ids_Q: Tensor
    write_at: Tensor

    def __init__(self, size: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("image_QE", F.normalize(torch.randn(size, width, generator=generator), dim=-1))
        self.register_buffer("text_QE", F.normalize(torch.randn(size, width, generator=generator), dim=-1))
        self.register_buffer("image_ids_Q", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("write_at", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, image_BE: Tensor, text_BE: Tensor, image_ids_B: Tensor) -> None:
        """The oldest entries make room. A batch larger than the queue leaves its last entries."""
        size = self.image_QE.shape[0]
        if not size:
            return
        image_BE, text_BE, image_ids_B = image_BE[-size:], text_BE[-size:], image_ids_B[-size:]
        places = (self.write_at + torch.arange(len(image_BE), device=self.write_at.device)) % size
        self.image_QE.index_copy_(0, places, image_BE.to(self.image_QE.dtype))
        self.text_QE.index_copy_(0, places, text_BE.to(self.text_QE.dtype))
        self.image_ids_Q.index_copy_(0, places, image_ids_B)
        self.write_at.add_(len(image_BE)).remainder_(size)
