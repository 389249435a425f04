"""Any decoder-only language model of transformers that goes on from a prefix of vectors: states, scores, decoding.

ClipCap's prefix and BLIP-2's projected queries are such prefixes. Knows nothing of images, nor of what made the prefix.
transformers is imported where it is used.

For models whose scores are a linear map (`get_output_embeddings`) of the last hidden state: GPT-2, OPT, LLaMA and their like.

Axes at the end of tensor names: B images, n rows per image, R = B * n rows, k prefix vectors, P prompt tokens, T text tokens,
W width, V vocabulary, H heads, S positions, D width of one head.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capfilt.errors import CheckpointError

LanguageModel = Any
"""A `PreTrainedModel` with a language-model head."""


def load_language_model(source: str | Path) -> LanguageModel:
    """float32, in evaluation mode, from a local folder, the hub's cache or the hub.

    Raises:
        CheckpointError: If there is none, or it is no decoder-only language model.
    """
    from transformers import AutoModelForCausalLM

    from capfilt.modeling.find import find_checkpoint

    path = find_checkpoint(source)
    try:
        return AutoModelForCausalLM.from_pretrained(path).float().eval()
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{source}: expected a transformers folder of a decoder-only language model, found {reason}. Name another folder"
        ) from None


def embed_tokens(model: LanguageModel, ids_BT: Tensor) -> Tensor:
    """[B, T, W]: what the model takes for its tokens, positions not yet added."""
    vectors_BTW: Tensor = model.get_input_embeddings()(ids_BT)
    return vectors_BTW


def hidden_states(model: LanguageModel, vectors_BSW: Tensor) -> Tensor:
    """Last states [B, S, W], each position seeing itself and what precedes it.

    Padding needs no mask where it stands to the right: no kept position sees it.
    """
    states_BSW: Tensor = model.base_model(inputs_embeds=vectors_BSW, use_cache=False).last_hidden_state
    return states_BSW


def next_token_scores(model: LanguageModel, states_W: Tensor) -> Tensor:
    """[..., W] -> [..., V]."""
    scores_V: Tensor = model.get_output_embeddings()(states_W)
    return scores_V


def longest_text(model: LanguageModel, prefix_length: int) -> int:
    """Tokens that fit behind a prefix of so many vectors."""
    return int(model.config.max_position_embeddings) - prefix_length


@cache
def _layer_class() -> type[Any]:
    """A layer of transformers' cache that is allocated once, where theirs is copied at every step."""
    from transformers.cache_utils import DynamicLayer

    class PreallocatedLayer(DynamicLayer):  # type: ignore[misc]
        """`keys` and `values` are views, [R, H, S, D], of the written part."""

        keys: Any
        values: Any
        is_initialized: bool

        def __init__(self, room: int) -> None:
            super().__init__()
            self.room = room

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            start = self.get_seq_length()
            if not self.is_initialized:
                rows, heads, _, width = key_states.shape
                self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
                self.all_keys = key_states.new_empty(rows, heads, self.room, width)
                self.all_values = value_states.new_empty(rows, heads, self.room, value_states.shape[3])
            stop = start + key_states.shape[2]
            self.all_keys[:, :, start:stop] = key_states
            self.all_values[:, :, start:stop] = value_states
            self._view(stop)
            return self.keys, self.values

        def reorder(self, rows_R: Tensor) -> None:
            for written in (self.keys, self.values):
                written.copy_(written.index_select(0, rows_R))

        def take(self, rows_R: Tensor) -> None:
            """These rows, in this order; a row may be named several times."""
            length = self.get_seq_length()
            self.all_keys = self.all_keys.index_select(0, rows_R)
            self.all_values = self.all_values.index_select(0, rows_R)
            self._view(length)

        def _view(self, length: int) -> None:
            self.keys, self.values = self.all_keys[:, :, :length], self.all_values[:, :, :length]

    return PreallocatedLayer


class LanguageCache:
    """Keys and values of one decoding batch, prefix and prompt included."""

    def __init__(self, layers: int, room: int) -> None:
        from transformers import DynamicCache

        self.of_model = DynamicCache()
        self.of_model.layers = [_layer_class()(room) for _ in range(layers)]

    def reorder(self, rows_R: Tensor) -> None:
        """Row r goes on from what row `rows_R[r]` has written."""
        for layer in self.of_model.layers:
            layer.reorder(rows_R)

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        """Drop all other rows; nothing here belongs to an image alone."""
        for layer in self.of_model.layers:
            layer.take(rows_R)


class LanguageDecoder:
    """A language model behind a prefix, as the decoding engine sees it (`capfilt.modeling.decoding.Decoder`)."""

    def __init__(self, model: LanguageModel, *, eos_id: int, pad_id: int, prefix_length: int) -> None:
        """`eos_id` is the token that ends a text, whatever the model's own configuration says."""
        self.model = model
        self.eos_id = eos_id
        self.pad_id = pad_id
        self.longest = longest_text(model, prefix_length)

    def start(self, prefix_BkW: Tensor, prompt_BP: Tensor, rows_per_image: int, max_length: int) -> tuple[Tensor, LanguageCache]:
        """Scores [B, V] of the first new token, and the cache of B * rows_per_image rows.

        Prefix and prompt run once per image. The prompt may be empty.
        """
        images, length, _ = prefix_BkW.shape
        vectors = torch.cat([prefix_BkW, embed_tokens(self.model, prompt_BP).to(prefix_BkW)], dim=1)
        cache = LanguageCache(int(self.model.config.num_hidden_layers), length + max_length)
        scores_BV = self._go_on(vectors, cache)
        if rows_per_image > 1:
            rows_R = torch.arange(images, device=prefix_BkW.device).repeat_interleave(rows_per_image)
            cache.keep(rows_R, rows_R)
        return scores_BV, cache

    def step(self, ids_R: Tensor, cache: LanguageCache) -> Tensor:
        """Scores [R, V] of the token after `ids_R`."""
        return self._go_on(embed_tokens(self.model, ids_R[:, None]), cache)

    def _go_on(self, vectors_RSW: Tensor, cache: LanguageCache) -> Tensor:
        states_RSW = self.model.base_model(
            inputs_embeds=vectors_RSW, past_key_values=cache.of_model, use_cache=True
        ).last_hidden_state
        return next_token_scores(self.model, states_RSW[:, -1])
