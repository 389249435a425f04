"""What a filter is: pictures and their texts in, scores out. It measures; `select` decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """`itm[i][j]`, `itc[i][j]`: of text j of image i. None where a family has none.

    ITM is the probability of a match, ITC a cosine; `embedding` [images, dim] holds unit-norm image features for dedup.
    """

    itm: list[list[float]] | None
    itc: list[list[float]] | None
    embedding: Float32Array


@runtime_checkable
class Filter(Protocol):
    """`name` goes into `captions[].scores[].filter`; `dim` is the width of the embedding.

    One that makes do with small pictures may have `covering: int | None`, the pixels it needs on the shorter side.
    """

    name: str
    dim: int

    def score(self, images: Sequence[Image], texts: Sequence[Sequence[str]]) -> Scores:
        """Scores of every text of every image; all texts of an image share its encoding. An image may have no text."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """Unit-norm features, float32 [n, dim]."""

    def embed_images(self, images: Sequence[Image]) -> Float32Array: ...

    def embed_texts(self, texts: Sequence[str]) -> Float32Array: ...


def empty_embedding(dim: int) -> npt.NDArray[Any]:
    return np.zeros((0, dim), dtype=np.float32)
