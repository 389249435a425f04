"""A trained network of any family at work on a device: fixed batch shapes, one dtype, no gradients.

Captioners and filters stand on it; knows nothing of tables, seeds or thresholds.

Axes at the end of tensor names: B images (`batch_size`, the last batch padded; halved where the GPU's memory does not suffice),
N image tokens, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.config.architectures import image_side
from capfilt.config.architectures.parts import Role, missing_role
from capfilt.config.round import (
    Blip2Model,
    CaptionConfig,
    ClipCapModel,
    CocaModel,
    FilterConfig,
    MedModel,
    Pixels,
    SohoModel,
    TrainedModel,
)
from capfilt.errors import CheckpointError, ConfigError, ContractError
from capfilt.identity import model_name
from capfilt.modeling.ahead import Ahead
from capfilt.modeling.clipcap.image import centre_square
from capfilt.modeling.families import Loaded, load_network
from capfilt.modeling.med.network import MED
from capfilt.modeling.memory import in_batches
from capfilt.modeling.packed import pack
from capfilt.modeling.preprocess import normalise, to_uint8
from capfilt.modeling.soho.network import SOHO
from capfilt.modeling.trunk import Trunk

Made = TypeVar("Made")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Inference:
    """`name` is short and the same wherever the folder lies: it enters files and seeds."""

    def __init__(
        self,
        name: str,
        loaded: Loaded,
        *,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        device: str,
        pixels: Pixels = "exact",
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(
                f"device {device}: expected a GPU, found none that torch can use. Take device cpu; in a pipeline, "
                "resources.caption.gpus: 0 and resources.filter.gpus: 0"
            )
        self.name = name
        self.architecture = loaded.architecture
        self.tokenizer = loaded.tokenizer
        self.size = image_side(loaded.architecture)
        """Pixels of the network's square."""
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.dtype = DTYPES[dtype]
        self.pixels: Pixels = pixels
        self.model = loaded.model.eval().requires_grad_(False).to(self.device, self.dtype)
        pack(self.model)
        self._takes_middle = loaded.takes_middle
        self._trunk: Trunk | None = None

    @classmethod
    def load(
        cls,
        source: str,
        *,
        kind: str | None = None,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        device: str,
        vocabulary: str | Path | None = None,
        pixels: Pixels = "exact",
    ) -> "Inference":
        """`source`, `vocabulary`: whatever `modeling.families.load_network` takes; `kind`: the family it must be, None: any.

        Raises:
            CheckpointError: If there is none, or it is of another family.
            ConfigError: If it takes no pictures, or there is no such device.
        """
        loaded = load_network(source, vocabulary=vocabulary)
        if kind not in (None, loaded.architecture.kind):
            raise CheckpointError(
                f"{source}: expected a model of kind {kind}, found a {loaded.architecture.kind}. Correct the kind or the folder"
            )
        return cls(model_name(source), loaded, batch_size=batch_size, dtype=dtype, device=device, pixels=pixels)

    @property
    def covering(self) -> int | None:
        """Pixels of a picture's shorter side that suffice (`images.decode_rgb`); None: all that it has."""
        return self.size if self.pixels == "fast" else None

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

        The caller has seen that the encoders are equal (`modeling.trunk.Fingerprint`).
        """
        if not isinstance(self.model, MED) or not isinstance(other.model, MED):
            raise ContractError(f"expected two MEDs to share an image encoder, found {self.name} and {other.name}")
        other.model.vision = self.model.vision
        self._trunk = other._trunk = Trunk(self.batch_size)

    def _encode(self, images: Sequence[Image], size: int, pixels: Callable[[], Tensor]) -> Tensor:
        if self._trunk is None:
            return self._encode_anew(pixels())
        return self._trunk.encoded(images, size, lambda: self._encode_anew(pixels()))

    @torch.inference_mode()
    def _encode_anew(self, pixels_BCHW: Tensor) -> Tensor:
        pixels_BCHW = normalise(pixels_BCHW, self.architecture).to(self.dtype)
        # What a SOHO is asked for needs its features before they are tokens.
        return self.model.visual_features(pixels_BCHW) if isinstance(self.model, SOHO) else self.model.encode_image(pixels_BCHW)

    def _pixels(self, images: Sequence[Image], size: int) -> Tensor:
        """uint8 [size, 3, S, S] on the CPU; a smaller batch is padded with its last image."""
        if self._takes_middle:
            images = [centre_square(image, self.size) for image in images]
        pixels_BCHW = to_uint8(images, self.size, how=self.pixels)
        missing = size - len(images)
        return torch.cat([pixels_BCHW, pixels_BCHW[-1:].expand(missing, -1, -1, -1)]) if missing else pixels_BCHW

    def require(self, role: Role) -> None:
        """Raises: CheckpointError: If the weights cannot do it."""
        if role not in self.architecture.roles:
            raise CheckpointError(missing_role(self.name, role))


def load_asked(
    model: TrainedModel | MedModel | CocaModel | Blip2Model | ClipCapModel | SohoModel,
    section: CaptionConfig | FilterConfig,
    *,
    trained: str | None,
    device: str,
    place: str,
) -> Inference:
    """The network that a pipeline names; `trained` is the folder that `kind: trained` stands for, `place` the setting.

    Raises:
        CheckpointError: If there is no such model, or it is of another kind.
        ConfigError: If `trained` is needed and missing, the model takes no pictures, or there is no such device.
    """
    source, kind = (trained, None) if isinstance(model, TrainedModel) else (model.checkpoint, model.kind)
    if source is None:
        raise ConfigError(f"{place} is `kind: trained`; expected a model trained by this run, found none. Train one first")
    return Inference.load(
        source, kind=kind, batch_size=section.batch_size, dtype=section.dtype, device=device, pixels=section.pixels
    )
