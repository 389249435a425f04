"""MED as a captioner: the image-grounded decoder writes texts (BLIP section 3.1)."""

from collections.abc import Sequence
from typing import Literal

import torch
from PIL.Image import Image

from capfilt.captioners.base import Caption
from capfilt.config.decoding import Decoding
from capfilt.modeling.inference import Inference


class MedCaptioner:
    """Texts come back without the prompt, as BLIP's CapFilt stores them."""

    def __init__(self, network: Inference, *, prompt: str, decode: Decoding) -> None:
        self.name = network.name
        self._network = network
        self._decode = decode
        tokenizer = network.tokenizer
        self._prompt_P = torch.from_numpy(tokenizer.encode_prompt(prompt)).to(network.device)

    @classmethod
    def load(
        cls,
        checkpoint: str,
        *,
        prompt: str,
        decode: Decoding,
        batch_size: int,
        dtype: Literal["float32", "bfloat16"],
        device: str,
    ) -> "MedCaptioner":
        network = Inference.load(checkpoint, batch_size=batch_size, dtype=dtype, device=device)
        return cls(network, prompt=prompt, decode=decode)

    def caption(self, images: Sequence[Image], *, seeds: Sequence[Sequence[int]]) -> list[list[Caption]]:
        found: list[list[Caption]] = []
        decode = self._network.tokenizer.decode
        for here, image_embeds_BND in self._network.encode(images):
            asked = [list(seeds[i]) for i in here]
            asked += [asked[-1]] * (self._network.batch_size - len(asked))
            made = self._network.model.generate(image_embeds_BND, self._prompt_P, self._decode, seeds=asked)
            new_BnL = made.ids_BnL[:, :, len(self._prompt_P) :].tolist()
            log_prob_Bn = made.log_prob_Bn.tolist()
            for i in range(len(here)):
                found.append([Caption(decode(ids), p) for ids, p in zip(new_BnL[i], log_prob_Bn[i], strict=True)])
        return found
