"""A network as a filter: pictures and texts in batches of few fixed shapes, what its family measures out.

What all families have in common; what each measures stands in its own file. Knows no checkpoint and no threshold.

Axes at the end of tensor names: B images of a batch, R texts (rows), T tokens, N image tokens, D width, E embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.filters.base import Float32Array, Scores, empty_embedding
from capfilt.modeling.decoding import SMALLEST_BATCH
from capfilt.modeling.inference import Inference
from capfilt.modeling.memory import in_batches

LENGTH_STEP = 8
"""Texts are padded to multiples of this many tokens, so that few shapes occur and a neighbour's length changes nothing."""
Table = list[list[float]]
Judge = Callable[[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None]]
"""Ids [R, T], mask [R, T] and the image of each text [R] -> probability of a match [R] and cosine [R]; None: has none."""


class NetworkFilter(ABC):
    """All texts of an image share its encoding."""

    has_itm = has_itc = True

    def __init__(self, network: Inference) -> None:
        network.require("filter")
        self.name = network.name
        self.dim = network.architecture.embed_dim
        self.covering = network.covering
        self.network = network

    @abstractmethod
    def _embedding(self, image_embeds: Tensor) -> Tensor:
        """[B, E], unit norm, float32, of what the image encoder gives."""

    @abstractmethod
    def _judge(self, image_embeds: Tensor, image_BE: Tensor) -> Judge:
        """For the texts of these images; their embedding is known."""

    @abstractmethod
    def _text_features(self, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """[R, E], unit norm."""

    def score(self, images: Sequence[Image], texts: Sequence[Sequence[str]]) -> Scores:
        itm: Table = []
        itc: Table = []
        vectors: list[Float32Array] = [empty_embedding(self.dim)]

        def one_batch(here: range, image_embeds: Tensor) -> tuple[Table, Table, Float32Array]:
            matching, cosine, image_BE = self._score_batch(image_embeds, [list(texts[i]) for i in here])
            return matching, cosine, image_BE[: len(here)].cpu().numpy()

        for matching, cosine, image_vectors in self.network.each_batch(images, one_batch):
            itm.extend(matching)
            itc.extend(cosine)
            vectors.append(image_vectors)
        return Scores(itm if self.has_itm else None, itc if self.has_itc else None, np.concatenate(vectors))

    @torch.inference_mode()
    def _score_batch(self, image_embeds: Tensor, texts: list[list[str]]) -> tuple[Table, Table, Tensor]:
        image_BE = self._embedding(image_embeds)
        judge = self._judge(image_embeds, image_BE)
        made: list[tuple[list[tuple[int, int]], tuple[Tensor | None, Tensor | None]]] = []
        for at, ids_RT, mask_RT in self._text_batches(texts, len(image_embeds)):
            image_of_text_R = torch.tensor([i for i, _ in at], device=self.network.device)
            made.append((at, judge(ids_RT, mask_RT, image_of_text_R)))
        found: tuple[Table, Table] = [[0.0] * len(own) for own in texts], [[0.0] * len(own) for own in texts]
        for at, measured in made:  # asked for at the end: each question makes a GPU wait
            for table, values_R in zip(found, measured, strict=True):
                if values_R is not None:
                    for (i, j), value in zip(at, values_R.tolist(), strict=True):
                        table[i][j] = value
        return *found, image_BE

    def _text_batches(self, texts: list[list[str]], size: int) -> list[tuple[list[tuple[int, int]], Tensor, Tensor]]:
        """Texts by length bucket, in batches of `size` rows, a bucket's last one in the smallest of `fixed_size`.

        The padding rows repeat the last one.
        """
        flat = [(i, j) for i, own in enumerate(texts) for j in range(len(own))]
        if not flat:
            return []
        network = self.network
        ids, mask = network.tokenizer.encode_batch([texts[i][j] for i, j in flat], network.architecture.max_text_length)
        lengths = mask.sum(1)
        buckets: dict[int, list[int]] = {}
        for row, length in enumerate(lengths):
            buckets.setdefault(self._width(int(length)), []).append(row)
        batches = []
        for width, rows in sorted(buckets.items()):
            for start in range(0, len(rows), size):
                chosen = rows[start : start + size]
                padded = np.array(chosen + [chosen[-1]] * (fixed_size(len(chosen), size) - len(chosen)))
                ids_RT = np.full((len(padded), width), network.architecture.text.pad_id, dtype=np.int64)
                mask_RT = np.zeros((len(padded), width), dtype=np.int64)
                kept = min(width, ids.shape[1])
                ids_RT[:, :kept], mask_RT[:, :kept] = ids[padded, :kept], mask[padded, :kept]
                at = [flat[row] for row in padded]
                batches.append((at, torch.from_numpy(ids_RT).to(network.device), torch.from_numpy(mask_RT).to(network.device)))
        return batches

    def _width(self, length: int) -> int:
        """Tokens that a text of so many is padded to."""
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, self.network.architecture.text.max_positions)

    def embed_images(self, images: Sequence[Image]) -> Float32Array:
        """Unit-norm image features, float32 [n, dim]."""

        @torch.inference_mode()
        def one_batch(here: range, image_embeds_BND: Tensor) -> Float32Array:
            features: Float32Array = self._embedding(image_embeds_BND)[: len(here)].cpu().numpy()
            return features

        return np.concatenate([empty_embedding(self.dim), *self.network.each_batch(images, one_batch)])

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        """Unit-norm text features, float32 [n, dim]."""

        @torch.inference_mode()
        def one_batch(here: range, size: int) -> Float32Array:
            found = np.zeros((len(here), self.dim), dtype=np.float32)
            for at, ids_RT, mask_RT in self._text_batches([[text] for text in texts[here.start : here.stop]], size):
                features = self._text_features(ids_RT, mask_RT).float().cpu().numpy()
                for (i, _), vector in zip(at, features, strict=True):
                    found[i] = vector
            return found

        return np.concatenate([empty_embedding(self.dim), *in_batches(len(texts), self.network.batch_size, one_batch)])


def fixed_size(rows: int, size: int) -> int:
    """Rows of the batch that holds `rows`: `size`, halved as often as they fit and at least `SMALLEST_BATCH` remain."""
    while size % 2 == 0 and rows <= size // 2 and size // 2 >= SMALLEST_BATCH:
        size //= 2
    return size
