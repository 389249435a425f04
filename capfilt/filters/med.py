"""MED as a filter: ITM by the image-grounded encoder, ITC by the unimodal ones (BLIP section 3.1)."""

from torch import Tensor

from capfilt.filters.network import Judge, NetworkFilter
from capfilt.modeling.inference import Inference
from capfilt.modeling.med import MED, ImagesOfTexts


class MedFilter(NetworkFilter):
    """All texts of an image share its cross-attention keys and values too. Needs weights with the role `filter`."""

    def __init__(self, network: Inference, model: MED) -> None:
        super().__init__(network)
        self._model = model

    def _embedding(self, image_embeds: Tensor) -> Tensor:
        return self._model.image_features(image_embeds).float()

    def _judge(self, image_embeds: Tensor, image_BE: Tensor) -> Judge:
        image_kv = self._model.text_encoder.image_kv(image_embeds)

        def judge(ids_RT: Tensor, mask_RT: Tensor, image_of_text_R: Tensor) -> tuple[Tensor, Tensor]:
            logits_R2 = self._model.itm_logits_from(ids_RT, mask_RT, ImagesOfTexts(image_kv, image_of_text_R)).float()
            text_RE = self._text_features(ids_RT, mask_RT).float()
            return logits_R2.softmax(-1)[:, 1], (text_RE * image_BE[image_of_text_R]).sum(-1)

        return judge

    def _text_features(self, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        return self._model.text_features(ids_RT, mask_RT)
