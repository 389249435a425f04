"""BLIP-2 as a captioner: stage 1 by image-grounded text generation, stage 2 by the language model (BLIP-2 sections 3.2, 3.3)."""

from capfilt.captioners.network import NetworkCaptioner
from capfilt.config.decoding import Decoding
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.inference import Inference


class QFormerCaptioner(NetworkCaptioner):
    """Stage 1: the Q-Former goes on from [DEC] and the prompt, seeing its queries. Needs weights with the role `captioner`."""

    def __init__(self, network: Inference, model: QFormer, *, prompt: str, decode: Decoding) -> None:
        network.require("captioner")
        super().__init__(network, model, prompt=prompt, decode=decode)


class Blip2Captioner(NetworkCaptioner):
    """Stage 2: the projected queries stand in front of what the language model reads. An encoder-decoder's encoder reads the
    prompt too, so its texts begin without it. Needs no role of the Q-Former."""

    def __init__(self, network: Inference, model: Blip2, *, prompt: str, decode: Decoding) -> None:
        super().__init__(network, model, prompt=prompt, decode=decode)
        self._language = model

    def _written_from(self) -> int:
        return self._language.written_from(self._prompt_P)
