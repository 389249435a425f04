"""MED as a captioner: the image-grounded decoder writes texts (BLIP section 3.1)."""

from capfilt.captioners.network import NetworkCaptioner
from capfilt.config.decoding import Decoding
from capfilt.modeling.inference import Inference
from capfilt.modeling.med.network import MED


class MedCaptioner(NetworkCaptioner):
    """The decoder goes on from [DEC] and the prompt. Needs weights with the role `captioner`."""

    def __init__(self, network: Inference, model: MED, *, prompt: str, decode: Decoding) -> None:
        network.require("captioner")
        super().__init__(network, model, prompt=prompt, decode=decode)
