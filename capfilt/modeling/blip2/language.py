"""A frozen language model of transformers that reads soft prompts: losses, and an encoder-decoder's decoding.

BLIP-2 section 3.3. Decoder-only models decode through `capfilt.modeling.causal_lm`. transformers is imported where it is used.
Knows nothing of pictures or of what made the soft prompts.

Axes at the end of tensor names: B images, R rows, S soft prompts, P prompt tokens, T text tokens, M kept tokens, U width of the
language model's embeddings, V vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.causal_lm import LanguageCache, embed_tokens, hidden_states, load_language_model, next_token_scores
from capfilt.modeling.find import find_checkpoint
from capfilt.modeling.losses import IGNORED

WITHOUT_LIMIT = 1 << 15
"""Tokens; of models with relative positions (T5)."""


class FrozenLanguage:
    """Holds a causal or sequence-to-sequence model of transformers, frozen and in evaluation mode.

    No `nn.Module`, so that it is never a part of what holds it: not in its parameters, state dict or training mode.
    """

    def __init__(self, model: Any, *, eos_id: int | None = None) -> None:
        """`eos_id`: None takes the model's own."""
        self.model = model.eval().requires_grad_(False)
        config = model.config
        self.is_encoder_decoder = bool(config.is_encoder_decoder)
        self.width = int(model.get_input_embeddings().embedding_dim)
        ends = eos_id if eos_id is not None else config.eos_token_id
        if ends is None:
            raise ConfigError("language.eos_id: expected the token that ends a text, found none in the model; name it")
        self.eos_id = int(ends[0] if isinstance(ends, list) else ends)
        self.pad_id = int(config.pad_token_id if config.pad_token_id is not None else self.eos_id)
        self.longest = int(getattr(config, "max_position_embeddings", None) or WITHOUT_LIMIT)
        # What an encoder-decoder's decoder begins with.
        self.first_id = int(config.decoder_start_token_id or 0) if self.is_encoder_decoder else None

    @classmethod
    def load(cls, checkpoint: str | Path, *, eos_id: int | None = None) -> "FrozenLanguage":
        """From a transformers folder or hub name, in float32.

        Raises:
            CheckpointError: If there is no language model of that name.
        """
        from transformers import AutoConfig, AutoModelForSeq2SeqLM

        path = find_checkpoint(checkpoint)
        try:
            if not AutoConfig.from_pretrained(path).is_encoder_decoder:
                return cls(load_language_model(path), eos_id=eos_id)
            model = AutoModelForSeq2SeqLM.from_pretrained(path).float()
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{checkpoint}: expected a transformers folder of a language model, found {reason}. Name another folder"
            ) from None
        return cls(model, eos_id=eos_id)

    def joined(self, soft_BSU: Tensor, ids_BT: Tensor) -> Tensor:
        """[B, S + T, U]: the soft prompts stand in front of the tokens, not added to them."""
        words_BTU = embed_tokens(self.model, ids_BT)
        return torch.cat([soft_BSU.to(words_BTU.dtype), words_BTU], 1)

    def text_logits(self, soft_BSU: Tensor, ids_BT: Tensor) -> Tensor:
        """[B, T, V] of a decoder-only model: column t scores token t, given the soft prompts and the tokens before it."""
        return next_token_scores(self.model, self._before(soft_BSU, ids_BT))

    def text_loss(self, soft_BSU: Tensor, ids_BT: Tensor, mask_BT: Tensor, prompt_length: int = 0) -> Tensor:
        """Mean cross-entropy of the tokens of a decoder-only model; soft prompts, prompt and padding are no targets."""
        labels_BT = ids_BT.masked_fill(mask_BT == 0, IGNORED)
        labels_BT[:, :prompt_length] = IGNORED
        # Only kept tokens are scored: a row of OPT's vocabulary is 200 kB.
        kept_M = (labels_BT != IGNORED).flatten().nonzero()[:, 0]
        states_MU = self._before(soft_BSU, ids_BT).flatten(0, 1).index_select(0, kept_M)
        return F.cross_entropy(next_token_scores(self.model, states_MU).float(), labels_BT.flatten()[kept_M])

    def _before(self, soft_BSU: Tensor, ids_BT: Tensor) -> Tensor:
        """States [B, T, U]: column t is what stands before token t, the last soft prompt for t = 0."""
        return hidden_states(self.model, self.joined(soft_BSU, ids_BT))[:, soft_BSU.shape[1] - 1 : -1]

    def suffix_logits(
        self, soft_BSU: Tensor, prefix_BP: Tensor, prefix_mask_BP: Tensor, ids_BT: Tensor, mask_BT: Tensor
    ) -> Tensor:
        """[B, T, V] of an encoder-decoder: column t scores the suffix' token t, given all before it."""
        assert self.first_id is not None
        first_B1 = ids_BT.new_full((len(ids_BT), 1), self.first_id)
        out = self.model(
            inputs_embeds=self.joined(soft_BSU, prefix_BP),
            attention_mask=torch.cat([prefix_mask_BP.new_ones(soft_BSU.shape[:2]), prefix_mask_BP], 1),
            decoder_input_ids=torch.cat([first_B1, ids_BT[:, :-1]], 1),
            decoder_attention_mask=torch.cat([torch.ones_like(first_B1), mask_BT[:, :-1]], 1),
            use_cache=False,
        )
        logits_BTV: Tensor = out.logits
        return logits_BTV

    def suffix_loss(
        self, soft_BSU: Tensor, ids_BT: Tensor, mask_BT: Tensor, cuts_B: Tensor, *, is_closed: bool = False
    ) -> Tensor:
        """Prefix language-model loss: the encoder reads the first `cuts_B` tokens, the decoder learns the rest.

        `is_closed`: the encoder reads the closing token behind them, as behind a prompt; `cuts_B` is below each text's length.
        """
        read_BT, stop_B = ids_BT, cuts_B
        if is_closed:
            read_BT, stop_B = ids_BT.scatter(1, cuts_B[:, None], self.eos_id), cuts_B + 1
        prefix_BP, prefix_mask_BP = self._moved(read_BT, torch.zeros_like(cuts_B), stop_B)
        suffix_BT, suffix_mask_BT = self._moved(ids_BT, cuts_B, mask_BT.sum(1))
        logits_BTV = self.suffix_logits(soft_BSU, prefix_BP, prefix_mask_BP, suffix_BT, suffix_mask_BT)
        labels_BT = suffix_BT.masked_fill(suffix_mask_BT == 0, IGNORED)
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), ignore_index=IGNORED)

    def _moved(self, ids_BT: Tensor, start_B: Tensor, stop_B: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens start … stop of each row, to the left and padded, with their mask."""
        widest = int((stop_B - start_B).max())
        at_BT = start_B[:, None] + torch.arange(widest, device=ids_BT.device)
        mask_BT = at_BT < stop_B[:, None]
        taken_BT = ids_BT.gather(1, at_BT.clamp(max=ids_BT.shape[1] - 1))
        return taken_BT.masked_fill(~mask_BT, self.pad_id), mask_BT.long()


@dataclass(frozen=True)
class SoftPrompt:
    """What an encoder-decoder's encoder reads."""

    soft_BSU: Tensor
    prompt_BP: Tensor


class SuffixCache:
    """Self-attention of the rows, their cross-attention, and what the encoder said."""

    def __init__(self, own: LanguageCache, both: Any, encoded_RSU: Tensor) -> None:
        self.own = own
        self.both = both
        self.encoded_RSU = encoded_RSU

    def reorder(self, rows_R: Tensor) -> None:
        """Row r continues what row `rows_R[r]` wrote; cross-attention stays, since both belong to the same image."""
        self.own.reorder(rows_R)

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        """Go on with these rows."""
        self.own.keep(images_B, rows_R)
        self.both.cross_attention_cache.batch_select_indices(rows_R)
        self.encoded_RSU = self.encoded_RSU.index_select(0, rows_R)


class SuffixDecoder:
    """An encoder-decoder as the decoding engine sees it: its image is a SoftPrompt, its prompt the first token alone."""

    def __init__(self, language: FrozenLanguage) -> None:
        self.language = language
        self.eos_id, self.pad_id = language.eos_id, language.pad_id
        self.longest = language.longest

    def start(self, image: SoftPrompt, prompt_BP: Tensor, rows_per_image: int, max_length: int) -> tuple[Tensor, SuffixCache]:
        """Scores [B, V] of the first new token, and the cache of B * rows_per_image rows. The encoder reads once per image."""
        from transformers import DynamicCache, EncoderDecoderCache

        model = self.language.model
        joined_BSU = self.language.joined(image.soft_BSU, image.prompt_BP)
        encoded_BSU = model.get_encoder()(inputs_embeds=joined_BSU).last_hidden_state
        own = LanguageCache(int(getattr(model.config, "num_decoder_layers", model.config.num_hidden_layers)), max_length)
        cache = SuffixCache(own, EncoderDecoderCache(own.of_model, DynamicCache()), encoded_BSU)
        scores_BV = self._go_on(prompt_BP, cache)
        if rows_per_image > 1:
            rows_R = torch.arange(len(prompt_BP), device=prompt_BP.device).repeat_interleave(rows_per_image)
            cache.keep(rows_R, rows_R)
        return scores_BV, cache

    def step(self, ids_R: Tensor, cache: SuffixCache) -> Tensor:
        """Scores [R, V] of the token after `ids_R`."""
        return self._go_on(ids_R[:, None], cache)

    def _go_on(self, ids_RT: Tensor, cache: SuffixCache) -> Tensor:
        scores_RTV: Tensor = self.language.model(
            decoder_input_ids=ids_RT, encoder_outputs=(cache.encoded_RSU,), past_key_values=cache.both, use_cache=True
        ).logits
        return scores_RTV[:, -1]
