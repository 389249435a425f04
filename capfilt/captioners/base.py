"""What a captioner is: pictures in, candidate texts out. Knows no family, no table, no file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL.Image import Image


@dataclass(frozen=True)
class Caption:
    """One synthetic text. `log_prob` is the sum over generated tokens, natural logarithm, under the model's own distribution."""

    text: str
    log_prob: float


@runtime_checkable
class Captioner(Protocol):
    """`name` goes into `captions[].captioner` and into every row's seed.

    One that makes do with small pictures may have `covering: int | None`, the pixels it needs on the shorter side.
    """

    name: str

    def caption(self, images: Sequence[Image], *, seeds: Sequence[Sequence[int]]) -> list[list[Caption]]:
        """Texts for each image, as many as it has seeds; the picture is encoded once for all of them.

        Args:
            images: RGB pictures of any size; preprocessing belongs to the captioner.
            seeds: One list per image of equal length, numbers in [0, 2**63); each starts one text's random stream.
        """
        ...
