"""An image encoder that two networks have in common: known by its content, and used once for each batch of pictures.

Knows nothing of captioning, matching, tables or files.

Axes at the end of tensor names: B images, N image tokens, D width.
"""

from collections.abc import Callable, Sequence

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


def trunk_identity(model: MED) -> str:
    """Hash of all that decides how a picture is encoded: equal for equal encoders, wherever their weights came from."""
    architecture = model.config
    looks = architecture.image.model_dump(mode="json", exclude={"drop_path"})  # of training only
    parts: list[str | bytes] = [str([looks, architecture.image_mean, architecture.image_std])]
    for name, tensor in sorted(model.vision.state_dict().items()):
        parts += [f"{name} {tensor.dtype} {list(tensor.shape)}", _bytes(tensor)]
    return content_hash(*parts)


def share_weights(captioner: MED, scorer: MED) -> bool:
    """Whether the captioner's text network is the filter's too, as where one checkpoint serves as both.

    BLIP's decoder shares all but self-attention with the encoder, so that is what is compared; of networks without sharing, all.
    """
    written, read = captioner.text_decoder.state_dict(), scorer.text_encoder.state_dict()
    common = [name for name in written if ".self_block." not in name]
    if all(name in read and torch.equal(written[name], read[name]) for name in common):
        return True
    all_written, all_read = captioner.state_dict(), scorer.state_dict()
    return all_written.keys() == all_read.keys() and all(torch.equal(all_written[name], all_read[name]) for name in all_written)


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
