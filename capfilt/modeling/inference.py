"""A trained MED at work on a device: fixed batch shapes, one dtype, no gradients.

Captioner and filter stand on it; knows nothing of tables, seeds or thresholds.

Axes at the end of tensor names: B images (always `batch_size`, the last batch padded), N image tokens, D width.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.config.architecture import Architecture
from capfilt.errors import ConfigError
from capfilt.modeling.med import MED
from capfilt.modeling.preprocess import normalise, to_uint8
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import load_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Inference:
    """`name` is short and the same wherever the folder lies: it enters files and seeds."""

    def __init__(
        self,
        name: str,
        model: MED,
        architecture: Architecture,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        device: str,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(
                "resources: expected a GPU (`gpus` is above 0), found none that torch can use. "
                "Set resources.caption.gpus and resources.filter.gpus to 0 to run on the CPU"
            )
        self.name = name
        self.architecture = architecture
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.dtype = DTYPES[dtype]
        self.model = model.eval().requires_grad_(False).to(self.device, self.dtype)

    @classmethod
    def load(cls, folder: str, *, batch_size: int, dtype: Literal["float32", "bfloat16"], device: str) -> "Inference":
        loaded = load_model(folder)
        return cls(
            model_name(folder),
            loaded.model,
            loaded.architecture,
            loaded.tokenizer,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
        )

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> Iterator[tuple[range, Tensor]]:
        """Image embeddings [B, N, D] batch by batch, with the positions of its true images.

        The last batch is padded with its own last image: a sum's last bit depends on the batch's size, never on its content.
        """
        for start in range(0, len(images), self.batch_size):
            here = range(start, min(start + self.batch_size, len(images)))
            pixels_BCHW = to_uint8(images[here.start : here.stop], self.architecture.image.size)
            missing = self.batch_size - len(here)
            if missing:
                pixels_BCHW = torch.cat([pixels_BCHW, pixels_BCHW[-1:].expand(missing, -1, -1, -1)])
            pixels_BCHW = normalise(pixels_BCHW.to(self.device, non_blocking=True), self.architecture)
            yield here, self.model.encode_image(pixels_BCHW.to(self.dtype))


def model_name(folder: str) -> str:
    """`round-0/captioner` for a model this run trained, else the folder's or hub repository's own name."""
    parts = Path(folder).parts
    if len(parts) >= 3 and parts[-2] == "models":
        return f"{parts[-3]}/{parts[-1]}"
    return parts[-1] if parts else folder
