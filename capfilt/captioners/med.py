"""MED as a captioner: the image-grounded decoder writes texts (BLIP section 3.1)."""

from collections.abc import Sequence
from typing import Literal

import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.captioners.base import Caption
from capfilt.config.decoding import Decoding
from capfilt.config.round import Pixels
from capfilt.modeling.inference import Inference


class MedCaptioner:
    """Texts come back without the prompt, as BLIP's CapFilt stores them."""

    def __init__(self, network: Inference, *, prompt: str, decode: Decoding) -> None:
        network.require("captioner")
        self.name = network.name
        self.covering = network.covering
        self._network = network
        self._decode = decode
        tokenizer = network.tokenizer
        self._prompt_P = torch.from_numpy(tokenizer.encode_prompt(prompt)).to(network.device)
        # Tokens in front of what is new; an encoder-decoder's prompt is none of them (`Blip2.written_from`).
        written_from = getattr(network.model, "written_from", len)
        self._first_new: int = written_from(self._prompt_P)

    @property
    def network(self) -> Inference:
        return self._network

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
        pixels: Pixels = "exact",
    ) -> "MedCaptioner":
        network = Inference.load(checkpoint, batch_size=batch_size, dtype=dtype, device=device, pixels=pixels)
        return cls(network, prompt=prompt, decode=decode)

    def caption(self, images: Sequence[Image], *, seeds: Sequence[Sequence[int]]) -> list[list[Caption]]:
        decode = self._network.tokenizer.decode

        def one_batch(here: range, image_embeds_BND: Tensor) -> list[list[Caption]]:
            asked = [list(seeds[i]) for i in here]
            asked += [asked[-1]] * (len(image_embeds_BND) - len(asked))
            made = self._network.model.generate(image_embeds_BND, self._prompt_P, self._decode, seeds=asked)
            new_BnL = made.ids_BnL[:, :, self._first_new :].tolist()
            log_prob_Bn = made.log_prob_Bn.tolist()
            return [
                [Caption(decode(ids), p) for ids, p in zip(new_BnL[i], log_prob_Bn[i], strict=True)] for i in range(len(here))
            ]

        return [texts for batch in self._network.each_batch(images, one_batch) for texts in batch]
