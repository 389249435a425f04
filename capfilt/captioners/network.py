"""A network as a captioner: pictures in batches through its image encoder and the decoding engine, texts out.

What all families have in common; what each does alone stands in its own file. Knows no checkpoint and no table.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL.Image import Image
from torch import Tensor

from capfilt.captioners.base import Caption
from capfilt.config.decoding import Decoding
from capfilt.modeling.decoding import Generated
from capfilt.modeling.inference import Inference


class Writer(Protocol):
    """A network that writes through `modeling.decoding.generate`."""

    def generate(
        self, image: Tensor, prompt_ids: Tensor, decoding: Decoding, /, *, seeds: Sequence[Sequence[int]] | None = None
    ) -> Generated:
        """`image`: what its `encode_image` gives."""
        ...


class NetworkCaptioner:
    """Texts come back without the prompt, as BLIP's CapFilt stores them."""

    def __init__(self, network: Inference, model: Writer, *, prompt: str, decode: Decoding) -> None:
        """`model` is `network.model`, known to write."""
        self.name = network.name
        self.covering = network.covering
        self.network = network
        self._model = model
        self._decode = decode
        self._prompt_P = torch.from_numpy(network.tokenizer.encode_prompt(prompt)).to(network.device)

    def caption(self, images: Sequence[Image], *, seeds: Sequence[Sequence[int]]) -> list[list[Caption]]:
        decode, first_new = self.network.tokenizer.decode, self._written_from()

        def one_batch(here: range, image_embeds_BND: Tensor) -> list[list[Caption]]:
            asked = [list(seeds[i]) for i in here]
            asked += [asked[-1]] * (len(image_embeds_BND) - len(asked))
            made = self._model.generate(image_embeds_BND, self._prompt_P, self._decode, seeds=asked)
            new_BnL = made.ids_BnL[:, :, first_new:].tolist()
            log_prob_Bn = made.log_prob_Bn.tolist()
            return [
                [Caption(decode(ids), p) for ids, p in zip(new_BnL[i], log_prob_Bn[i], strict=True)] for i in range(len(here))
            ]

        return [texts for batch in self.network.each_batch(images, one_batch) for texts in batch]

    def _written_from(self) -> int:
        """Tokens of a generated row before the caption."""
        return len(self._prompt_P)
