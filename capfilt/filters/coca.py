"""CoCa as a filter: ITC alone, the cosine of its contrastive query and the text's [CLS] (CoCa section 3.2)."""

from torch import Tensor

from capfilt.filters.network import Judge, NetworkFilter
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.inference import Inference


class CocaFilter(NetworkFilter):
    """Every CoCa can. A released one's [CLS] stands behind the padding, so its texts are always padded to their full length."""

    has_itm = False

    def __init__(self, network: Inference, model: CoCa) -> None:
        super().__init__(network)
        self._model = model

    def _embedding(self, image_embeds: Tensor) -> Tensor:
        return self._model.image_features(image_embeds).float()

    def _judge(self, image_embeds: Tensor, image_BE: Tensor) -> Judge:
        def judge(ids_RT: Tensor, mask_RT: Tensor, image_of_text_R: Tensor) -> tuple[None, Tensor]:
            text_RE = self._text_features(ids_RT, mask_RT).float()
            return None, (text_RE * image_BE[image_of_text_R]).sum(-1)

        return judge

    def _text_features(self, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        return self._model.text_features(ids_RT, mask_RT)

    def _width(self, length: int) -> int:
        return self._model.padded_to or super()._width(length)
