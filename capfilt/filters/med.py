"""MED as a filter: ITM by the image-grounded encoder, ITC by the unimodal ones (BLIP section 3.1)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.config.round import Pixels
from capfilt.filters.base import Float32Array, Scores, empty_embedding
from capfilt.modeling.decoding import SMALLEST_BATCH
from capfilt.modeling.inference import Inference
from capfilt.modeling.med import ImagesOfTexts
from capfilt.modeling.memory import in_batches

LENGTH_STEP = 8
"""Texts are padded to multiples of this many tokens, so that few shapes occur and a neighbour's length changes nothing."""


class MedFilter:
    """All texts of an image share its encoding and its cross-attention keys and values."""

    def __init__(self, network: Inference) -> None:
        network.require("filter")
        self.name = network.name
        self.dim = network.architecture.embed_dim
        self.covering = network.covering
        self._network = network

    @property
    def network(self) -> Inference:
        return self._network

    @classmethod
    def load(
        cls,
        checkpoint: str,
        *,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        device: str,
        pixels: Pixels = "exact",
    ) -> "MedFilter":
        return cls(Inference.load(checkpoint, batch_size=batch_size, dtype=dtype, device=device, pixels=pixels))

    def score(self, images: Sequence[Image], texts: Sequence[Sequence[str]]) -> Scores:
        itm: list[list[float]] = []
        itc: list[list[float]] = []
        vectors: list[Float32Array] = [empty_embedding(self.dim)]

        def one_batch(here: range, image_embeds_BND: Tensor) -> tuple[list[list[float]], list[list[float]], Float32Array]:
            matching, cosine, image_BE = self._score_batch(image_embeds_BND, [list(texts[i]) for i in here])
            return matching, cosine, image_BE[: len(here)].cpu().numpy()

        for matching, cosine, image_vectors in self._network.each_batch(images, one_batch):
            itm.extend(matching)
            itc.extend(cosine)
            vectors.append(image_vectors)
        return Scores(itm, itc, np.concatenate(vectors))

    @torch.inference_mode()
    def _score_batch(
        self, image_embeds_BND: Tensor, texts: list[list[str]]
    ) -> tuple[list[list[float]], list[list[float]], Tensor]:
        model = self._network.model
        image_BE = model.image_features(image_embeds_BND).float()
        image_kv = model.text_encoder.image_kv(image_embeds_BND)
        itm = [[0.0] * len(own) for own in texts]
        itc = [[0.0] * len(own) for own in texts]
        made: list[tuple[list[tuple[int, int]], Tensor, Tensor]] = []
        for at, ids_RT, mask_RT in self._text_batches(texts, len(image_embeds_BND)):
            image_of_text_R = torch.tensor([i for i, _ in at], device=self._network.device)
            logits_R2 = model.itm_logits_from(ids_RT, mask_RT, ImagesOfTexts(image_kv, image_of_text_R)).float()
            text_RE = model.text_features(ids_RT, mask_RT).float()
            made.append((at, logits_R2.softmax(-1)[:, 1], (text_RE * image_BE[image_of_text_R]).sum(-1)))
        for at, match_R, cosine_R in made:  # asked for at the end: each question makes a GPU wait
            for (i, j), p, c in zip(at, match_R.tolist(), cosine_R.tolist(), strict=True):
                itm[i][j], itc[i][j] = p, c
        return itm, itc, image_BE

    def _text_batches(self, texts: list[list[str]], size: int) -> list[tuple[list[tuple[int, int]], Tensor, Tensor]]:
        """Texts by length bucket, in batches of `size` rows, a bucket's last one in the smallest of `fixed_size`.

        The padding rows repeat the last one.
        """
        flat = [(i, j) for i, own in enumerate(texts) for j in range(len(own))]
        if not flat:
            return []
        network = self._network
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
        return min(-(-length // LENGTH_STEP) * LENGTH_STEP, self._network.architecture.text.max_positions)

    def embed_images(self, images: Sequence[Image]) -> Float32Array:
        """Unit-norm image features, float32 [n, dim]."""

        @torch.inference_mode()
        def one_batch(here: range, image_embeds_BND: Tensor) -> Float32Array:
            features: Float32Array = self._embedding(image_embeds_BND)[: len(here)].cpu().numpy()
            return features

        return np.concatenate([empty_embedding(self.dim), *self._network.each_batch(images, one_batch)])

    def _embedding(self, image_embeds_BND: Tensor) -> Tensor:
        """[B, dim], unit norm, float32."""
        return self._network.model.image_features(image_embeds_BND).float()

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        """Unit-norm text features, float32 [n, dim]."""

        @torch.inference_mode()
        def one_batch(here: range, size: int) -> Float32Array:
            found = np.zeros((len(here), self.dim), dtype=np.float32)
            for at, ids_RT, mask_RT in self._text_batches([[text] for text in texts[here.start : here.stop]], size):
                features = self._network.model.text_features(ids_RT, mask_RT).float().cpu().numpy()
                for (i, _), vector in zip(at, features, strict=True):
                    found[i] = vector
            return found

        return np.concatenate([empty_embedding(self.dim), *in_batches(len(texts), self._network.batch_size, one_batch)])


def fixed_size(rows: int, size: int) -> int:
    """Rows of the batch that holds `rows`: `size`, halved as often as they fit and at least `SMALLEST_BATCH` remain."""
    while size % 2 == 0 and rows <= size // 2 and size // 2 >= SMALLEST_BATCH:
        size //= 2
    return size
