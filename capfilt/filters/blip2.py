"""BLIP-2 as a filter: its Q-Former's ITM and ITC, both over the queries (BLIP-2 section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from capfilt.filters.network import Judge, NetworkFilter
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.inference import Inference


class Blip2Filter(NetworkFilter):
    """ITM's mean over the queries, ITC by the query nearest to the text; a picture's embedding is the queries' mean.

    Needs weights of stage 1 with the role `filter`.
    """

    def __init__(self, network: Inference, model: QFormer) -> None:
        super().__init__(network)
        self._model = model

    def _embedding(self, image_embeds: Tensor) -> Tensor:
        return F.normalize(self._model.image_features(image_embeds).float().mean(1), dim=-1)

    def _judge(self, image_embeds: Tensor, image_BE: Tensor) -> Judge:
        image_BQE = self._model.image_features(image_embeds).float()

        def judge(ids_RT: Tensor, mask_RT: Tensor, image_of_text_R: Tensor) -> tuple[Tensor, Tensor]:
            logits_R2 = self._model.itm_logits(ids_RT, mask_RT, image_embeds, image_of_text_R).float()
            text_RE = self._text_features(ids_RT, mask_RT).float()
            cosine_R = torch.einsum("rqe,re->rq", image_BQE[image_of_text_R], text_RE).amax(-1)
            return logits_R2.softmax(-1)[:, 1], cosine_R

        return judge

    def _text_features(self, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        return self._model.text_features(ids_RT, mask_RT)
