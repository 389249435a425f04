"""BLIP-2's second stage: the Q-Former's outputs, projected, are soft prompts of a frozen language model (BLIP-2 section 3.3).

Gives soft prompts, next-token logits, captions and losses; knows nothing of optimisers, tokenising or files.

Axes at the end of tensor names: B images, R texts (rows), N image tokens, D image width, Q queries, W their width, U width of
the language model's embeddings, P prompt tokens, T text tokens, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.decoding import Decoding
from capfilt.errors import ContractError
from capfilt.modeling.batch import Batch
from capfilt.modeling.blip2.language import FrozenLanguage, SoftPrompt, SuffixDecoder
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.causal_lm import LanguageDecoder
from capfilt.modeling.decoding import Generated, generate, prompt_of_each


class Blip2(nn.Module):
    """What learns is the Q-Former, the norm in front of it and `projection`.

    The language model is a guest: it moves between devices with the rest, but is no part of parameters, state dict or training
    mode, so nothing can change it.
    """

    def __init__(self, qformer: QFormer, language: FrozenLanguage) -> None:
        """`qformer`: its heads, where it has them, stay usable, but this stage does not train them."""
        super().__init__()
        self.config: Blip2Architecture = qformer.config
        self.qformer = qformer
        self.projection = nn.Linear(qformer.config.text.width, language.width)
        nn.init.normal_(self.projection.weight, std=qformer.config.init_std)
        nn.init.zeros_(self.projection.bias)
        self.language = language
        self._objective: list[Any] = []  # a list, so that its network is not taken for a part of this one

    @classmethod
    def from_original(
        cls,
        state_dict: Mapping[str, Any],
        language: FrozenLanguage,
        config: "Blip2Architecture | Mapping[str, Any] | str | Path | None" = None,
    ) -> "Blip2":
        """A Blip2 in evaluation mode with the weights of LAVIS' Blip2OPT or Blip2T5 (`opt_proj`, `t5_proj`).

        `state_dict` and `config` as in `QFormer.from_original`. The language model's own tensors, which LAVIS leaves out of its
        files, are passed over: `language` is what it is.
        """
        from capfilt.modeling.blip2.original import blip2_from_original

        return blip2_from_original(state_dict, language, config)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Blip2":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.language.model._apply(fn)
        return self

    def encode_image(self, pixels_BCHW: Tensor) -> Tensor:
        """[B, N, D]; see `QFormer.encode_image`."""
        return self.qformer.encode_image(pixels_BCHW)

    def query_outputs(self, image_embeds_BND: Tensor) -> Tensor:
        """[B, Q, W]; see `QFormer.query_outputs`."""
        return self.qformer.query_outputs(image_embeds_BND)

    def prefix_embeds(self, image_embeds_BND: Tensor) -> Tensor:
        """Soft prompts [B, Q, U]; they stand in front of the text's embeddings."""
        prefix_BQU: Tensor = self.projection(self.query_outputs(image_embeds_BND))
        return prefix_BQU

    def lm_logits(
        self,
        ids_RT: Tensor,
        mask_RT: Tensor,
        image_embeds_BND: Tensor,
        *,
        prefix_ids: Tensor | None = None,
        prefix_mask: Tensor | None = None,
    ) -> Tensor:
        """[R, T, V]: column t scores token t, given the picture and the tokens before it (so token 0 is scored too).

        Args:
            ids_RT: The language model's ids, R = B.
            mask_RT: 1 for tokens, padding to the right.
            image_embeds_BND: From `encode_image`.
            prefix_ids: [R, P] that an encoder-decoder's encoder reads; None is no text. Decoder-only models take none.
            prefix_mask: [R, P]; None is all ones.
        """
        soft_BQU = self.prefix_embeds(image_embeds_BND)
        if not self.language.is_encoder_decoder:
            if prefix_ids is not None:
                raise ContractError("prefix_ids: expected none for a decoder-only model, found some; put them before `ids`")
            return self.language.text_logits(soft_BQU, ids_RT)
        if prefix_ids is None:
            prefix_ids = ids_RT[:, :0]
        if prefix_mask is None:
            prefix_mask = torch.ones_like(prefix_ids)
        return self.language.suffix_logits(soft_BQU, prefix_ids, prefix_mask, ids_RT, mask_RT)

    def losses(self, batch: "Batch | Mapping[str, Tensor]", *, cuts_B: Tensor | None = None) -> dict[str, Tensor]:
        """`lm`: the language model's loss of the texts, see `Blip2Training`.

        Args:
            batch: A Batch, or a dictionary of its tensors; ids are the language model's.
            cuts_B: Encoder-decoder: tokens of each text that the encoder reads; None draws them.
        """
        from capfilt.modeling.batch import as_batch
        from capfilt.modeling.blip2.training import Blip2Training

        if not self._objective:
            self._objective.append(Blip2Training(self))
        objective: Blip2Training = self._objective[0]
        return objective.losses(batch if isinstance(batch, Batch) else as_batch(batch), cuts_B=cuts_B)

    @torch.inference_mode()
    def generate(
        self,
        image_embeds_BND: Tensor,
        prompt_ids: Tensor,
        decoding: Decoding | Mapping[str, Any],
        *,
        seeds: Sequence[Sequence[int]] | None = None,
    ) -> Generated:
        """Captions of the images; see `capfilt.modeling.decoding.generate`.

        Args:
            image_embeds_BND: From `encode_image`.
            prompt_ids: [P] or [B, P] of the language model's ids. A decoder-only model continues them; P may be 0. An
                encoder-decoder's encoder reads them.
            decoding: Greedy, beam or nucleus. Lengths count the prompt of a decoder-only model, and an encoder-decoder's first
                token; they do not count soft prompts (transformers does).
            seeds: One list per image, one 64-bit seed per caption wanted. Needed by nucleus.

        Returns:
            Ids with `written_from(prompt_ids)` tokens in front that are no part of the caption.
        """
        prompt_ids = prompt_of_each(prompt_ids, len(image_embeds_BND))
        soft_BQU = self.prefix_embeds(image_embeds_BND)
        language = self.language
        if language.first_id is not None:
            first_B1 = prompt_ids.new_full((len(prompt_ids), 1), language.first_id)
            return generate(SuffixDecoder(language), SoftPrompt(soft_BQU, prompt_ids), first_B1, decoding, seeds=seeds)
        decoder = LanguageDecoder(language.model, eos_id=language.eos_id, pad_id=language.pad_id, prefix_length=soft_BQU.shape[1])
        return generate(decoder, soft_BQU, prompt_ids, decoding, seeds=seeds)

    def written_from(self, prompt_ids: Tensor) -> int:
        """Tokens of a generated row before the caption: the prompt's, or an encoder-decoder's first one."""
        return 1 if self.language.is_encoder_decoder else prompt_ids.shape[-1]
