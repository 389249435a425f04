"""SOHO as a filter: ITM alone, on visual and text tokens together (SOHO section 3.3)."""

from torch import Tensor

from capfilt.errors import CheckpointError
from capfilt.filters.network import Judge, NetworkFilter
from capfilt.modeling.inference import Inference
from capfilt.modeling.soho.network import SOHO


class SohoFilter(NetworkFilter):
    """A picture's embedding is its mean visual feature; texts have none without a picture."""

    has_itc = False

    def __init__(self, network: Inference, model: SOHO) -> None:
        super().__init__(network)
        self._model = model

    def _embedding(self, image_embeds: Tensor) -> Tensor:
        return self._model.image_features(image_embeds).float()

    def _judge(self, image_embeds: Tensor, image_BE: Tensor) -> Judge:
        tokens_BND = self._model.visual_tokens(image_embeds)

        def judge(ids_RT: Tensor, mask_RT: Tensor, image_of_text_R: Tensor) -> tuple[Tensor, None]:
            logits_R2 = self._model.itm_logits(ids_RT, mask_RT, tokens_BND, image_of_text_R).float()
            return logits_R2.softmax(-1)[:, 1], None

        return judge

    def _text_features(self, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """Raises: CheckpointError: Always."""
        raise CheckpointError(f"{self.name}: expected a family with text features, found a SOHO. Name another filter")
