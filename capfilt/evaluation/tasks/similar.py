"""Pictures and texts in the common space of contrast, and ITM of some pairs, for every family that has them.

Knows how each family is asked; nothing of ranks or labels.

Axes at the end of tensor names: N pictures, M texts, E common space, Q queries, P pairs.
"""

from typing import assert_never

import numpy as np
import torch
from torch import Tensor

from capfilt.evaluation.retrieval import Float32Array
from capfilt.evaluation.tasks.base import Asked, Int64Array
from capfilt.evaluation.tasks.data import Shown
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.coca.image import mean_feature
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.med.network import MED
from capfilt.modeling.soho.network import SOHO

Contrasting = MED | CoCa | QFormer
Matching = MED | QFormer | SOHO


@torch.inference_mode()
def image_embeds(asked: Asked, shown: Shown) -> Tensor:
    """[N, …]: what the network's methods take as a picture."""
    parts = [asked.model.encode_image(asked.normalised(shown.take(rows_B)[:, 0])) for rows_B in asked.parts(len(shown))]
    return torch.cat(parts)


@torch.inference_mode()
def text_features(asked: Asked, texts: list[str]) -> Tensor:
    """[M, E], unit norm."""
    model: Contrasting = asked.model
    # A released CoCa's [CLS] depends on the padding, which then is always full.
    pad_to = model.padded_to if isinstance(model, CoCa) else None
    parts = [
        model.text_features(*asked.tokens([texts[i] for i in rows_B], pad_to, as_trained=True))
        for rows_B in asked.parts(len(texts))
    ]
    return torch.cat(parts)


@torch.inference_mode()
def cosines(model: Contrasting, image_embeds_N: Tensor, text_ME: Tensor) -> Float32Array:
    """[N, M]; BLIP-2: of the best query."""
    match model:
        case MED() | CoCa():
            sims_NM = model.image_features(image_embeds_N) @ text_ME.T
        case QFormer():
            sims_NM = model.itc_similarities(model.image_features(image_embeds_N), text_ME)
        case _:
            assert_never(model)
    found: Float32Array = sims_NM.float().cpu().numpy()
    return found


@torch.inference_mode()
def clip_features(asked: Asked, shown: Shown) -> Tensor:
    """[N, E], unit norm: the mean of the frames' features."""
    model: MED | CoCa = asked.model
    found = []
    for rows_B in asked.parts(len(shown)):
        pixels_BFCHW = asked.normalised(shown.take(rows_B))
        features_GE = model.image_features(model.encode_image(pixels_BFCHW.flatten(0, 1)))
        found.append(mean_feature(features_GE.view(*pixels_BFCHW.shape[:2], -1)))
    return torch.cat(found)


class PairMatcher:
    """ITM logit of "match" for pairs; `retrieval.ItmLogits`."""

    def __init__(self, asked: Asked, image_embeds_N: Tensor, texts: list[str]) -> None:
        self._asked, self._embeds_N, self._texts = asked, image_embeds_N, texts

    @torch.inference_mode()
    def __call__(self, image_P: Int64Array, text_P: Int64Array) -> Float32Array:
        model: Matching = self._asked.model
        found = np.empty(len(image_P), dtype=np.float32)
        for rows in self._asked.parts(len(image_P)):
            images, at = np.unique(image_P[rows], return_inverse=True)
            ids_RT, mask_RT = self._asked.tokens([self._texts[i] for i in text_P[rows]], as_trained=True)
            embeds = self._embeds_N[torch.from_numpy(images).to(self._asked.device)]
            of_text = torch.from_numpy(at).to(self._asked.device)
            found[rows] = model.itm_logits(ids_RT, mask_RT, embeds, of_text)[:, 1].float().cpu().numpy()
        return found
