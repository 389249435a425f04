"""An image encoder that two networks have in common: known by its content, and used once for each batch of pictures.

Knows nothing of captioning, matching, tables or files.

Axes at the end of tensor names: B images, N image tokens, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.identity import content_hash
from capfilt.modeling.med.network import MED


class Trunk:
    """The encodings of the last pictures, at most `limit` of them: who asks again for the same batch gets the same tensor."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[tuple[int, ...], tuple[Sequence[Image], Tensor]] = {}

    def encoded(self, images: Sequence[Image], size: int, encode: Callable[[], Tensor]) -> Tensor:
        """`encode()` of these picture objects as a batch of `size`, or what it gave before."""
        # The pictures of an entry are alive, so their ids are no other's.
        key = (size, *map(id, images))
        if key not in self._seen:
            while self._seen and sum(len(kept) for kept, _ in self._seen.values()) + len(images) > self._limit:
                del self._seen[next(iter(self._seen))]  # before the new one is made: never two batches in memory
            self._seen[key] = (list(images), encode())
        return self._seen[key][1]


@dataclass(frozen=True)
class Fingerprint:
    """A MED's weights as hashes, by which it is compared without being in memory; `written`, `read` and `all` by tensor."""

    trunk: str
    """Of all that decides how a picture is encoded: equal for equal encoders, wherever their weights came from."""
    written: Mapping[str, str]  # of the text decoder
    read: Mapping[str, str]  # of the text encoder
    all: Mapping[str, str]


def fingerprint(model: MED) -> Fingerprint:
    architecture = model.config
    looks = architecture.image.model_dump(mode="json", exclude={"drop_path"})  # of training only
    every = {name: _hash(tensor) for name, tensor in model.state_dict().items()}
    vision, written, read = (_of(every, part) for part in ("vision.", "text_decoder.", "text_encoder."))
    trunk = content_hash(str([looks, architecture.image_mean, architecture.image_std]), *map(str, sorted(vision.items())))
    return Fingerprint(trunk, written, read, every)


def share_weights(captioner: Fingerprint, scorer: Fingerprint) -> bool:
    """Whether the captioner's text network is the filter's too, as where one checkpoint serves as both.

    BLIP's decoder shares all but self-attention with the encoder, so that is what is compared; of networks without sharing, all.
    """
    common = [name for name in captioner.written if ".self_block." not in name]
    are_common = bool(common) and all(captioner.written[name] == scorer.read.get(name) for name in common)
    return are_common or captioner.all == scorer.all


def _of(every: Mapping[str, str], part: str) -> dict[str, str]:
    return {name.removeprefix(part): seal for name, seal in every.items() if name.startswith(part)}


def _hash(tensor: Tensor) -> str:
    return content_hash(f"{tensor.dtype} {list(tensor.shape)}", _bytes(tensor))


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
