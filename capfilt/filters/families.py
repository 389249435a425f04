"""The filter of whatever family a model folder holds; each scores with what it has.

    MED      ITM and ITC                       BLIP section 3.1
    BLIP-2   ITM and ITC, both over queries    BLIP-2 section 3.2
    CoCa     ITC alone                         CoCa section 3.1
    SOHO     ITM alone                         SOHO section 3.3

Batching of pictures and texts is `MedFilter`'s.
"""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from capfilt.config.round import Pixels
from capfilt.errors import CheckpointError
from capfilt.filters.base import Float32Array, Scores
from capfilt.filters.med import MedFilter
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.families import load_inference
from capfilt.modeling.inference import Inference
from capfilt.modeling.soho.network import SOHO

Table = list[list[float]]


def load_filter(
    checkpoint: str,
    *,
    kind: str | None = None,
    batch_size: int,
    dtype: Literal["float32", "bfloat16"],
    device: str,
    pixels: Pixels = "exact",
) -> MedFilter:
    """Arguments as of `MedFilter.load`; `kind` is the family that the folder must hold, None takes any.

    Raises:
        CheckpointError: If there is no such model, or it scores nothing.
    """
    network = load_inference(checkpoint, kind=kind, batch_size=batch_size, dtype=dtype, device=device, pixels=pixels)
    return filter_of(network)


def filter_of(network: Inference) -> MedFilter:
    """The filter that a network is, by its family."""
    model: Any = network.model
    if isinstance(model, QFormer):
        return Blip2Filter(network)
    if isinstance(model, CoCa):
        return CocaFilter(network)
    if isinstance(model, SOHO):
        return SohoFilter(network)
    return MedFilter(network)


def _empty(texts: list[list[str]]) -> Table:
    return [[0.0] * len(own) for own in texts]


class CocaFilter(MedFilter):
    """Cosine of the contrastive query and the text's [CLS]."""

    def _width(self, length: int) -> int:
        model = cast(CoCa, self._network.model)
        return model.padded_to or super()._width(length)

    def score(self, images: Sequence[Image], texts: Sequence[Sequence[str]]) -> Scores:
        found = super().score(images, texts)
        return Scores(None, found.itc, found.embedding)

    @torch.inference_mode()
    def _score_batch(self, image_embeds_BND: Tensor, texts: list[list[str]]) -> tuple[Table, Table, Tensor]:
        model = cast(CoCa, self._network.model)
        image_BE = model.image_features(image_embeds_BND).float()
        itc = _empty(texts)
        for at, ids_RT, mask_RT in self._text_batches(texts, len(image_embeds_BND)):
            text_RE = model.text_features(ids_RT, mask_RT).float()
            cosine_R = (text_RE * image_BE[[i for i, _ in at]]).sum(-1).tolist()
            for (i, j), c in zip(at, cosine_R, strict=True):
                itc[i][j] = c
        return _empty(texts), itc, image_BE


class Blip2Filter(MedFilter):
    """ITM's mean over the queries; ITC by the query nearest to the text. The picture's embedding is the queries' mean."""

    @torch.inference_mode()
    def _score_batch(self, image_embeds_BND: Tensor, texts: list[list[str]]) -> tuple[Table, Table, Tensor]:
        model = cast(QFormer, self._network.model)
        image_BQE = model.image_features(image_embeds_BND).float()
        itm, itc = _empty(texts), _empty(texts)
        for at, ids_RT, mask_RT in self._text_batches(texts, len(image_embeds_BND)):
            image_of_text_R = torch.tensor([i for i, _ in at], device=self._network.device)
            logits_R2 = model.itm_logits(ids_RT, mask_RT, image_embeds_BND, image_of_text_R).float()
            text_RE = model.text_features(ids_RT, mask_RT).float()
            cosine_R = torch.einsum("rqe,re->rq", image_BQE[image_of_text_R], text_RE).amax(-1)
            for (i, j), p, c in zip(at, logits_R2.softmax(-1)[:, 1].tolist(), cosine_R.tolist(), strict=True):
                itm[i][j], itc[i][j] = p, c
        return itm, itc, F.normalize(image_BQE.mean(1), dim=-1)

    def _embedding(self, image_embeds_BND: Tensor) -> Tensor:
        model = cast(QFormer, self._network.model)
        return F.normalize(model.image_features(image_embeds_BND).float().mean(1), dim=-1)


class SohoFilter(MedFilter):
    """ITM on visual and text tokens together; the picture's embedding is its mean feature."""

    def score(self, images: Sequence[Image], texts: Sequence[Sequence[str]]) -> Scores:
        found = super().score(images, texts)
        return Scores(found.itm, None, found.embedding)

    @torch.inference_mode()
    def _score_batch(self, image_embeds_BND: Tensor, texts: list[list[str]]) -> tuple[Table, Table, Tensor]:
        model, features_BDHW = cast(SOHO, self._network.model), image_embeds_BND
        tokens_BND = model.visual_tokens(features_BDHW)
        itm = _empty(texts)
        for at, ids_RT, mask_RT in self._text_batches(texts, len(features_BDHW)):
            image_of_text_R = torch.tensor([i for i, _ in at], device=self._network.device)
            logits_R2 = model.itm_logits(ids_RT, mask_RT, tokens_BND, image_of_text_R).float()
            for (i, j), p in zip(at, logits_R2.softmax(-1)[:, 1].tolist(), strict=True):
                itm[i][j] = p
        return itm, _empty(texts), model.image_features(features_BDHW).float()

    def embed_texts(self, texts: Sequence[str]) -> Float32Array:
        """Raises: CheckpointError: A SOHO's texts have no features without a picture."""
        raise CheckpointError(f"{self.name}: expected a family with text features, found a SOHO. Name another filter")
