"""CoCa as the decoding engine sees it: unimodal and multimodal layers step by step, with preallocated caches.

Axes at the end of tensor names: B images, R rows, P prompt, V vocabulary, Q image queries, L positions of the cache, W width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from capfilt.modeling.layers import KeysValues
from capfilt.modeling.med.network import MedCache
from capfilt.modeling.text import MASKED

if TYPE_CHECKING:
    from capfilt.modeling.coca.network import CoCa


class CocaCache(MedCache):
    """Keys and values of the unimodal layers, then of the multimodal ones; and which positions a row's later tokens may see.

    A generated padding token is hidden from what follows, as in training (in CLIP's vocabulary it is a word, '!').
    """

    def __init__(self, image_kv: list[KeysValues], own: list[KeysValues], hidden_RL: Tensor) -> None:
        super().__init__(image_kv, own)
        self.hidden_RL = hidden_RL

    def reorder(self, rows_R: Tensor) -> None:
        super().reorder(rows_R)
        self.hidden_RL = self.hidden_RL.index_select(0, rows_R)

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        super().keep(images_B, rows_R)
        self.hidden_RL = self.hidden_RL.index_select(0, rows_R)


class CocaDecoder:
    """`capfilt.modeling.decoding.Decoder`; `image_embeds` are what `CoCa.encode_image` gives."""

    def __init__(self, model: "CoCa") -> None:
        self.model = model
        text = model.config.text
        self.eos_id = text.sep_id
        self.pad_id = text.pad_id
        self.longest = text.max_positions
        # Released masks hide the token after the padding token, and with it what comes there.
        self._shift = 0 if text.cls_mask == "corrected" else 1

    def start(self, image_embeds: Tensor, prompt_BP: Tensor, rows_per_image: int, max_length: int) -> tuple[Tensor, CocaCache]:
        """Scores of the first new token per IMAGE, [B, V], and the cache for B * rows_per_image rows.

        The prompt is the same for all rows of an image, so it runs once per image.
        """
        model, config = self.model, self.model.config
        images = len(prompt_BP)
        image_kv = model.decoder.image_kv(model.caption_queries(image_embeds))
        heads = [config.text.heads] * config.text.layers + [config.multimodal.heads] * config.multimodal.layers
        own = []
        for count in heads:
            shape = (images, count, max_length, config.text.width // count)
            own.append((image_embeds.new_empty(shape), image_embeds.new_empty(shape)))
        cache = CocaCache(image_kv, own, image_embeds.new_zeros(images, max_length + 1))
        scores_BV = self._scores(prompt_BP, cache)
        cache.own = [(k.repeat_interleave(rows_per_image, 0), v.repeat_interleave(rows_per_image, 0)) for k, v in own]
        cache.hidden_RL = cache.hidden_RL.repeat_interleave(rows_per_image, 0)
        return scores_BV, cache

    def step(self, ids_R: Tensor, cache: CocaCache) -> Tensor:
        """Scores [R, V] of the token after `ids_R`."""
        return self._scores(ids_R[:, None], cache)

    def _scores(self, ids_RT: Tensor, cache: CocaCache) -> Tensor:
        model, start = self.model, cache.length
        stop = start + ids_RT.shape[1]
        first = start + self._shift
        cache.hidden_RL[:, first : first + ids_RT.shape[1]] = (ids_RT == self.pad_id) * MASKED
        bias = cache.hidden_RL[:, None, None, :stop]
        if stop - start > 1:
            later = torch.full((stop - start, stop), MASKED, dtype=bias.dtype, device=bias.device).triu(start + 1)
            bias = bias + later
        layers = model.config.text.layers
        states_RTW = model.text.step(ids_RT, cache.own[:layers], start, bias)
        states_RTW = model.decoder.step(states_RTW, cache.image_kv, cache.own[layers:], start)
        cache.length = stop
        scores_RV: Tensor = model.decoder.vocabulary(states_RTW[:, -1])
        return scores_RV
