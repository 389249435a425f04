"""A trained network asked for retrieval: cosines of all pairs, ITM logits of some.

Knows nothing of ranks.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.config.architectures import image_side
from capfilt.errors import ConfigError
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.clipcap.image import centre_square
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.families import load_network
from capfilt.modeling.med.network import MED
from capfilt.modeling.preprocess import normalise, to_uint8
from capfilt.modeling.soho.network import SOHO

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
IMAGES_AT_ONCE = 64
TEXTS_AT_ONCE = 256


class PairScorer:
    """Cosines and ITM logits between n images and their texts; every picture and text is encoded once.

    Args:
        folder: A model folder.
        images: RGB pictures.
        texts: All texts.
    """

    def __init__(self, folder: Path, images: Sequence[Image], texts: Sequence[str], *, device: str) -> None:
        loaded = load_network(folder)
        self._model: Any = loaded.model.to(device)
        if not isinstance(self._model, MED | CoCa | QFormer | SOHO):
            raise ConfigError(
                f"evaluate.retrieval.model: expected a model that scores pairs, found a {loaded.architecture.kind}. Name another"
            )
        self._device = device
        # A released CoCa's [CLS] depends on the padding, which then is always full.
        self._padded_to = self._model.padded_to if isinstance(self._model, CoCa) else None
        longest = loaded.architecture.max_text_length
        ids_MT, mask_MT = loaded.tokenizer.encode_batch(texts, longest, pad_to=self._padded_to)
        self._ids_MT, self._mask_MT = torch.from_numpy(ids_MT), torch.from_numpy(mask_MT)
        self._lengths_M: Int64Array = mask_MT.sum(1)
        embeds: list[Tensor] = []
        side = image_side(loaded.architecture)
        with torch.inference_mode():
            for start in range(0, len(images), IMAGES_AT_ONCE):
                seen = images[start : start + IMAGES_AT_ONCE]
                if loaded.takes_middle:
                    seen = [centre_square(image, side) for image in seen]
                pixels = to_uint8(seen, side).to(device)
                embeds.append(self._model.encode_image(normalise(pixels, loaded.architecture)))
        self._embeds_NLD = torch.cat(embeds)

    @torch.inference_mode()
    def cosines(self) -> Float32Array:
        """[N, M]. Of a SOHO, which has none, the probability of a match of every pair: the only way it ranks, and a slow one."""
        if isinstance(self._model, SOHO):
            image_P, text_P = (index.ravel() for index in np.indices((len(self._embeds_NLD), len(self._ids_MT))))
            logits_P = self.itm_logits(image_P, text_P)
            matches: Float32Array = (1 / (1 + np.exp(-logits_P))).reshape(len(self._embeds_NLD), -1).astype(np.float32)
            return matches
        image_NE = self._model.image_features(self._embeds_NLD)
        rows = [
            np.arange(start, min(start + TEXTS_AT_ONCE, len(self._ids_MT)))
            for start in range(0, len(self._ids_MT), TEXTS_AT_ONCE)
        ]
        text_ME = torch.cat([self._model.text_features(*self._texts(part)) for part in rows])
        sims_NM = self._model.itc_similarities(image_NE, text_ME) if isinstance(self._model, QFormer) else image_NE @ text_ME.T
        found: Float32Array = sims_NM.float().cpu().numpy()
        return found

    @torch.inference_mode()
    def itm_logits(self, image_P: Int64Array, text_P: Int64Array) -> Float32Array:
        """[P]: logit of "match".

        Images with about equally many texts go together, each padded to the same count, so that all texts of an image share its
        keys and values without a copy (seen: 1.6 times as fast as copying them).
        """
        if isinstance(self._model, CoCa):
            raise ConfigError(
                "evaluate.retrieval.rerank_top_k: expected 0 for a CoCa, which has a cosine alone, found more. Write 0"
            )
        found = np.empty(len(image_P), dtype=np.float32)
        for images_B, pairs_Bn in _equal_groups(image_P, TEXTS_AT_ONCE):
            ids_RT, mask_RT = self._texts(text_P[pairs_Bn.ravel()])
            embeds = self._embeds_NLD[torch.from_numpy(images_B).to(self._device)]
            found[pairs_Bn.ravel()] = self._model.itm_logits(ids_RT, mask_RT, embeds)[:, 1].float().cpu().numpy()
        return found

    def _texts(self, index: Int64Array) -> tuple[Tensor, Tensor]:
        width = self._padded_to or int(self._lengths_M[index].max())
        rows = torch.from_numpy(index)
        return self._ids_MT[rows, :width].to(self._device), self._mask_MT[rows, :width].to(self._device)


def _equal_groups(image_P: Int64Array, largest: int) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Images [B] and the pairs [B, n] of each, about `largest` pairs at once; a shorter row repeats its last pair."""
    order = np.argsort(image_P, kind="stable")
    by_image = np.split(order, np.flatnonzero(np.diff(image_P[order])) + 1) if len(order) else []
    rows = [pairs[start : start + largest] for pairs in by_image for start in range(0, len(pairs), largest)]
    rows.sort(key=len, reverse=True)  # stable, so images keep their order among equals
    while rows:
        longest = len(rows[0])
        group, rows = rows[: max(1, largest // longest)], rows[max(1, largest // longest) :]
        padded = np.stack([np.pad(pairs, (0, longest - len(pairs)), mode="edge") for pairs in group])
        yield image_P[padded[:, 0]], padded
