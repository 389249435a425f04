"""A trained MED at work on a device: fixed batch shapes, one dtype, no gradients.

Captioner and filter stand on it; knows nothing of tables, seeds or thresholds.

Axes at the end of tensor names: B images (`batch_size`, the last batch padded; halved where the GPU's memory does not suffice),
N image tokens, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.config.architecture import Architecture, Role
from capfilt.config.round import Pixels
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.ahead import Ahead
from capfilt.modeling.med.network import MED, missing_role
from capfilt.modeling.memory import in_batches
from capfilt.modeling.packed import pack
from capfilt.modeling.preprocess import normalise, to_uint8
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.trunk import Trunk
from capfilt.modeling.weights import load_model

Made = TypeVar("Made")
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
        pixels: Pixels = "exact",
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
        self.pixels: Pixels = pixels
        self.model = model.eval().requires_grad_(False).to(self.device, self.dtype)
        pack(self.model)
        self.encode: Callable[[Tensor], Tensor] | None = None
        """Where it is not the network's `encode_image` that a filter or captioner begins with."""
        self.takes_middle = False
        """Of a picture the middle square, as CLIP does; else it is squeezed."""
        self._trunk: Trunk | None = None

    @classmethod
    def load(
        cls,
        folder: str,
        *,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        device: str,
        vocabulary: str | Path | None = None,
        pixels: Pixels = "exact",
    ) -> "Inference":
        """`folder`, `vocabulary`: whatever `modeling.weights.load_model` takes."""
        loaded = load_model(folder, vocabulary=vocabulary)
        return cls(
            model_name(folder),
            loaded.model,
            loaded.architecture,
            loaded.tokenizer,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            pixels=pixels,
        )

    @property
    def covering(self) -> int | None:
        """Pixels of a picture's shorter side that suffice (`images.decode_rgb`); None: all that it has."""
        return self.architecture.image.size if self.pixels == "fast" else None

    def each_batch(self, images: Sequence[Image], work: Callable[[range, Tensor], Made]) -> Iterator[Made]:
        """`work(here, image_embeds_BND)` batch by batch; `here` are the positions of the batch's true images.

        The last batch is padded with its own last image: a sum's last bit depends on the batch's size, never on its content. All
        that a batch needs on the GPU belongs into `work`, which is called again with half the images where memory ran out.
        """

        def pixels(here: range, size: int) -> Tensor:
            return self._pixels(images[here.start : here.stop], size)

        with Ahead(pixels, len(images), self.device) as ahead:

            def run(here: range, size: int) -> Made:
                return work(here, self._encode(images[here.start : here.stop], size, lambda: ahead.take(here, size)))

            yield from in_batches(len(images), self.batch_size, run)

    def share_trunk(self, other: "Inference") -> None:
        """From now on both use this one's image encoder, once for each batch of pictures that both are shown.

        The caller has seen that the encoders are equal (`modeling.trunk.trunk_identity`).
        """
        other.model.vision = self.model.vision
        self._trunk = other._trunk = Trunk(self.batch_size)

    def _encode(self, images: Sequence[Image], size: int, pixels: Callable[[], Tensor]) -> Tensor:
        if self._trunk is None:
            return self._encode_anew(pixels())
        return self._trunk.encoded(images, size, lambda: self._encode_anew(pixels()))

    @torch.inference_mode()
    def _encode_anew(self, pixels_BCHW: Tensor) -> Tensor:
        encode = self.encode or self.model.encode_image
        return encode(normalise(pixels_BCHW, self.architecture).to(self.dtype))

    def _pixels(self, images: Sequence[Image], size: int) -> Tensor:
        """uint8 [size, 3, S, S] on the CPU; a smaller batch is padded with its last image."""
        if self.takes_middle:
            from capfilt.modeling.clipcap.image import centre_square

            images = [centre_square(image, self.architecture.image.size) for image in images]
        pixels_BCHW = to_uint8(images, self.architecture.image.size, how=self.pixels)
        missing = size - len(images)
        return torch.cat([pixels_BCHW, pixels_BCHW[-1:].expand(missing, -1, -1, -1)]) if missing else pixels_BCHW

    def require(self, role: Role) -> None:
        """Raises: CheckpointError: If the weights cannot do it."""
        # A BLIP-2's Q-Former may have no role of its own; its language model captions.
        writes = role == "captioner" and getattr(self.architecture, "language", None) is not None
        if role not in self.architecture.roles and not writes:
            raise CheckpointError(missing_role(self.name, role))


def model_name(folder: str) -> str:
    """`round-0/captioner` for a model this run trained, else the folder's or hub repository's own name."""
    parts = Path(folder).parts
    if len(parts) >= 3 and parts[-2] == "models":
        return f"{parts[-3]}/{parts[-1]}"
    return parts[-1].removesuffix(".pth") if parts else folder
