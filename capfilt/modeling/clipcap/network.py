"""ClipCap: an image embedding becomes a prefix, and GPT-2 goes on from it (Mokady et al., arXiv:2111.09734).

Gives prefixes, next-token scores, losses and captions, from pictures or straight from stored embeddings; knows nothing of
optimisers, tokenising or files. Published weights: `ClipCap.from_original`. GPT-2 and CLIP come from transformers, imported when
a ClipCap is made.

Axes at the end of tensor names: B images (or texts, one each), E image embedding, k prefix vectors, T text tokens, W width,
V vocabulary, n captions per image or nearest words per vector, C channels, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.config.decoding import Decoding
from capfilt.errors import CheckpointError
from capfilt.modeling.batch import Batch
from capfilt.modeling.causal_lm import LanguageDecoder, LanguageModel, embed_tokens, hidden_states, next_token_scores
from capfilt.modeling.clipcap.batch import EmbeddedBatch, as_embedded
from capfilt.modeling.clipcap.image import build_embedder
from capfilt.modeling.clipcap.mapper import build_mapper
from capfilt.modeling.decoding import Generated, generate, prompt_of_each
from capfilt.modeling.losses import IGNORED, lm_loss
from capfilt.modeling.published import ACTIVATIONS

_PUBLISHED_PAD = 0
"""What the published code fills texts with and, a true '!' or not, does not learn."""


class ClipCap(nn.Module):
    """Text ids are the tokenizer's, padded right; the prefix stands before them and is no token.

    `embedder` makes embeddings of pictures and is missing where `config.image` is null.
    """

    def __init__(self, config: ClipCapArchitecture) -> None:
        super().__init__()
        self.config = config
        self.embedder = build_embedder(config.image, config.embed_dim) if config.image is not None else None
        self.mapper = build_mapper(config)
        self.text = build_gpt(config)

    @classmethod
    def from_original(
        cls,
        state_dict: Mapping[str, Any],
        config: "ClipCapArchitecture | Mapping[str, Any] | str | Path | None" = None,
    ) -> "ClipCap":
        """A ClipCap in evaluation mode with the weights of a released checkpoint (rmokady/CLIP_prefix_caption).

        Args:
            state_dict: `clip_project.model.{0,2}.*` (MLP) or `clip_project.{linear,prefix_const,transformer}*` (transformer), and
                `gpt.*`; bare, or under `model` or `state_dict`.
            config: What shapes do not say; None takes GPT-2's heads of 64, the mapper's 8 heads, and the full stop as the token
                that ends a text. A ClipCapArchitecture, the name or path of an architecture YAML, or a dictionary of its fields,
                of the published code's (`normalize_prefix`, `only_prefix`, `stop_token_id`, `ignore_index`, ...) or of GPT-2's
                (`n_head`, ...). Its `image` is passed over, since the files hold no CLIP: see `with_image_side`.

        Raises:
            CheckpointError: If tensors are missing, unexpected or of another shape: all are listed.
            ConfigError: If `config` describes no architecture.
        """
        from capfilt.modeling.clipcap.original import from_original

        return from_original(state_dict, config)

    def with_image_side(self, source: str | Path) -> "ClipCap":
        """Itself, with the CLIP or MED of `source` (see `clipcap.image.load_embedder`) for pictures.

        Raises:
            CheckpointError: If its embeddings have another width than the mapper takes.
        """
        from capfilt.modeling.clipcap.image import load_embedder

        embedder, section, embed_dim, told = load_embedder(source)
        if embed_dim != self.config.embed_dim:
            raise CheckpointError(
                f"{source}: expected embeddings of width {self.config.embed_dim}, which the mapper takes, found {embed_dim}; "
                "name the model that made the embeddings it was trained on"
            )
        self.embedder = embedder.to(next(self.parameters()))
        self.config = self.config.model_copy(update={"image": section, **told})
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[B, E] as the embedder gives it; what other methods call `embeds`. The same numbers may come from a stored column."""
        if self.embedder is None:
            raise CheckpointError(
                "ClipCap: expected an image side to look at pictures, found none (`image: null`). Give stored embeddings, or "
                "`with_image_side` the CLIP that made them"
            )
        embeds: Tensor = self.embedder(pixels)
        return embeds

    def prefix_embeddings(self, embeds: Tensor) -> Tensor:
        """[B, k, W]: what stands before the text."""
        embeds = embeds.to(next(self.mapper.parameters()))
        if self.config.normalise:
            embeds = F.normalize(embeds, dim=-1)
        prefix_BkW: Tensor = self.mapper(embeds)
        return prefix_BkW

    def text_states(self, ids: Tensor, embeds: Tensor) -> Tensor:
        """[B, k + T, W]: GPT-2's last states of prefix and text."""
        prefix_BkW = self.prefix_embeddings(embeds)
        return hidden_states(self.text, torch.cat([prefix_BkW, embed_tokens(self.text, ids).to(prefix_BkW)], dim=1))

    def lm_logits(self, ids: Tensor, mask: Tensor | None, embeds: Tensor) -> Tensor:
        """[B, k + T, V]: position k - 1 + t scores token t of the text; those before it score nothing that is learnt.

        `mask` is taken for likeness with other families: padding stands to the right, where no token sees it.
        """
        return next_token_scores(self.text, self.text_states(ids, embeds))

    def losses(self, batch: "Batch | EmbeddedBatch | Mapping[str, Tensor]", *, prompt_length: int = 0) -> dict[str, Tensor]:
        """`lm`: the mean negative log-probability of the texts' tokens (ClipCap section 3.1); the prefix carries no label.

        Args:
            batch: Embeddings or pictures with texts, or a dictionary of tensors: `embeds` [B, E] or `pixels` [B, C, H, W], `ids`
                [B, T] and `mask` [B, T] (1 for tokens; left out: all are).
            prompt_length: Tokens at the head of every text that are seen but not learnt.
        """
        if not isinstance(batch, Batch | EmbeddedBatch):
            batch = as_embedded(batch)
        if isinstance(batch, Batch):
            with torch.no_grad():
                embed_BE = self.encode_image(batch.pixels_BCHW)
        else:
            embed_BE = batch.embed_BE
        labels_BT = self.labels(batch.ids_BT, batch.mask_BT, prompt_length)
        # The state before a text's first token is the prefix's last; the last token's own scores nothing.
        states_BTW = self.text_states(batch.ids_BT, embed_BE)[:, self.config.prefix_length - 1 : -1]
        kept_M = (labels_BT != IGNORED).flatten().nonzero()[:, 0]
        logits_MV = next_token_scores(self.text, states_BTW.flatten(0, 1).index_select(0, kept_M))
        return {"lm": lm_loss(logits_MV.float(), labels_BT.flatten()[kept_M], smoothing=0.0)}

    def labels(self, ids_BT: Tensor, mask_BT: Tensor, prompt_length: int = 0) -> Tensor:
        """[B, T]: every token is one, but for padding, the prompt and, with `loss_over: not_token_0`, token 0."""
        labels_BT = ids_BT.masked_fill(mask_BT == 0, IGNORED)
        labels_BT[:, :prompt_length] = IGNORED
        if self.config.loss_over == "not_token_0":
            labels_BT = labels_BT.masked_fill(ids_BT == _PUBLISHED_PAD, IGNORED)
        return labels_BT

    @torch.inference_mode()
    def generate(
        self,
        embeds: Tensor,
        prompt_ids: Tensor | None,
        decoding: Decoding | Mapping[str, Any],
        *,
        seeds: Sequence[Sequence[int]] | None = None,
    ) -> Generated:
        """Captions; see `capfilt.modeling.decoding.generate`. Lengths count the prompt's and the text's tokens, not the prefix.

        Args:
            embeds: From `encode_image` or a stored column; or pictures [B, C, H, W].
            prompt_ids: [P] or [B, P]; None or P = 0: the text begins at once, as in the published code.
            decoding: Greedy, beam or nucleus.
            seeds: One list per image, one 64-bit seed per caption wanted. Needed by nucleus.
        """
        if embeds.ndim == 4:
            embeds = self.encode_image(embeds)
        return self.generate_from(self.prefix_embeddings(embeds), prompt_ids, decoding, seeds=seeds)

    @torch.inference_mode()
    def generate_from(
        self,
        prefix_BkW: Tensor,
        prompt_ids: Tensor | None,
        decoding: Decoding | Mapping[str, Any],
        *,
        seeds: Sequence[Sequence[int]] | None = None,
    ) -> Generated:
        """As `generate`, from prefixes."""
        if prompt_ids is None:
            prompt_ids = torch.empty(0, dtype=torch.int64, device=prefix_BkW.device)
        prompt_ids = prompt_of_each(prompt_ids, len(prefix_BkW))
        return generate(self.decoder(), prefix_BkW, prompt_ids, decoding, seeds=seeds)

    def decoder(self) -> LanguageDecoder:
        """GPT-2 as the decoding engine sees it; its `start` takes prefixes."""
        text = self.config.text
        return LanguageDecoder(self.text, eos_id=text.end_id, pad_id=text.pad_id, prefix_length=self.config.prefix_length)

    @torch.inference_mode()
    def nearest_tokens(self, prefix_BkW: Tensor, n: int = 1) -> tuple[Tensor, Tensor]:
        """The n tokens whose embeddings are nearest to each vector by cosine: ids and cosines, [B, k, n].

        ClipCap section 4, "Prefix Interpretability".
        """
        words_VW = F.normalize(self.text.get_input_embeddings().weight.float(), dim=-1)
        cosines, ids = (F.normalize(prefix_BkW.float(), dim=-1) @ words_VW.T).topk(n, dim=-1)
        return ids, cosines


def build_gpt(config: ClipCapArchitecture) -> LanguageModel:
    """transformers' GPT2LMHeadModel with fresh weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    text = config.text
    their_activation = {ours: theirs for theirs, ours in reversed(list(ACTIVATIONS.items()))}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=text.vocab_size,
            n_positions=text.max_positions,
            n_embd=text.width,
            n_layer=text.layers,
            n_head=text.heads,
            n_inner=text.intermediate,
            activation_function=their_activation[text.activation],
            resid_pdrop=text.dropout,
            embd_pdrop=text.dropout,
            attn_pdrop=text.dropout,
            layer_norm_epsilon=text.norm_eps,
            initializer_range=text.init_std,
            tie_word_embeddings=text.tied_vocabulary,
            bos_token_id=None,
            eos_token_id=text.end_id,
            pad_token_id=text.pad_id,
        )
    ).eval()
