"""The text tower: a BERT whose self-attention may be bidirectional or causal, with cross-attention to an image on request.

Knows nothing of tokens' texts, of losses, or of how a text is decoded.

Axes at the end of tensor names: R texts (rows), B images, T tokens, W width, V vocabulary, H heads, S keys, D width of one head.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from capfilt.config.architectures.parts import BertConfig
from capfilt.modeling.layers import CrossAttention, FeedForward, KeysValues, SelfAttention, activate, attend, join_heads

MASKED = -10_000.0
"""What BLIP adds to the score of a key that may not be seen."""


class TextEmbeddings(nn.Module):
    """Word plus position, normalised; BLIP has no token types."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_RT: Tensor, start: int = 0) -> Tensor:
        return self.placed(ids_RT, self.positions.weight[start : start + ids_RT.shape[1]])

    def placed(self, ids_RT: Tensor, positions_TW: Tensor) -> Tensor:
        out_RTW: Tensor = self.dropout(self.norm(self.words(ids_RT) + positions_TW))
        return out_RTW


class SelfBlock(nn.Module):
    """Self-attention, residual, norm. The one part that the encoder and the decoder do not share."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.heads, config.attention_dropout)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_RTW: Tensor, bias: Tensor | None, *, causal: bool, first_only: bool) -> Tensor:
        mixed = self.dropout(self.attention(x_RTW, bias, causal=causal, first_only=first_only))
        out_RTW: Tensor = self.norm(mixed + (x_RTW[:, :1] if first_only else x_RTW))
        return out_RTW

    def cached_at(self, x_R1W: Tensor, cache: KeysValues, position_1: Tensor, bias: Tensor) -> Tensor:
        """As `cached` for one position that the device alone knows: all of the cache is looked at, `bias` hides the rest."""
        q, k, v = self.attention.project(x_R1W)
        keys, values = cache
        keys.index_copy_(2, position_1, k)
        values.index_copy_(2, position_1, v)
        mixed = attend(q, keys, values, bias)
        out_R1W: Tensor = self.norm(self.attention.out(join_heads(mixed)) + x_R1W)
        return out_R1W

    def cached(self, x_RTW: Tensor, cache: KeysValues, start: int, bias: Tensor | None) -> Tensor:
        """As `forward`, for positions from `start`; their keys and values are written into the cache."""
        stop = start + x_RTW.shape[1]
        q, k, v = self.attention.project(x_RTW)
        keys, values = cache
        keys[:, :, start:stop] = k
        values[:, :, start:stop] = v
        mixed = attend(q, keys[:, :, :stop], values[:, :, :stop], bias)
        out_RTW: Tensor = self.norm(self.attention.out(join_heads(mixed)) + x_RTW)
        return out_RTW


class CrossBlock(nn.Module):
    """Cross-attention to the image, residual, norm."""

    def __init__(self, config: BertConfig, image_width: int) -> None:
        super().__init__()
        self.attention = CrossAttention(config.width, image_width, config.heads, config.attention_dropout)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_RTW: Tensor, image: KeysValues, bias: Tensor | None = None) -> Tensor:
        out_RTW: Tensor = self.norm(self.dropout(self.attention(x_RTW, image, bias)) + x_RTW)
        return out_RTW


class FeedForwardBlock(nn.Module):
    """Feed-forward, residual, norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.mlp = FeedForward(config.width, config.intermediate, config.activation)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_RTW: Tensor) -> Tensor:
        out_RTW: Tensor = self.norm(self.dropout(self.mlp(x_RTW)) + x_RTW)
        return out_RTW


class TextLayer(nn.Module):
    """One layer; `cross` is missing where the tower never sees an image."""

    def __init__(self, self_block: SelfBlock, cross: CrossBlock | None, feed_forward: FeedForwardBlock) -> None:
        super().__init__()
        self.self_block = self_block
        self.cross: CrossBlock | None = cross
        self.feed_forward = feed_forward


class TextTower(nn.Module):
    """Embeddings and layers. Two towers that share modules are BLIP's text encoder and decoder (section 3.2)."""

    def __init__(self, embeddings: TextEmbeddings, layers: Iterable[TextLayer]) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)

    @classmethod
    def new(cls, config: BertConfig, image_width: int) -> "TextTower":
        layers = (
            TextLayer(SelfBlock(config), CrossBlock(config, image_width), FeedForwardBlock(config)) for _ in range(config.layers)
        )
        return cls(TextEmbeddings(config), layers)

    @classmethod
    def sharing(cls, config: BertConfig, other: "TextTower") -> "TextTower":
        """A tower with its own self-attention and all else shared with `other`."""
        return cls(
            other.embeddings, (TextLayer(SelfBlock(config), layer.cross, layer.feed_forward) for layer in other.in_order())
        )

    def image_kv(self, image_BSW: Tensor, into: Sequence[Tensor] | None = None) -> list[KeysValues]:
        """Cross-attention keys and values of the images, one pair per layer: made once, used by every text and step.

        `into`: memory of each layer for them (`CrossAttention.keys_values`).
        """
        crosses = [layer.cross.attention for layer in self.in_order() if layer.cross is not None]
        return [cross.keys_values(image_BSW, None if into is None else into[i]) for i, cross in enumerate(crosses)]

    def in_order(self) -> list[TextLayer]:
        return cast("list[TextLayer]", list(self.layers))

    def forward(
        self,
        ids_RT: Tensor,
        mask_RT: Tensor | None = None,
        image_kv: Sequence[KeysValues] | None = None,
        *,
        causal: bool = False,
        first_only: bool = False,
        rows: Tensor | None = None,
        image_bias: Tensor | None = None,
    ) -> Tensor:
        """States [R, T, W] of the texts; with `image_kv` grounded in the images.

        Args:
            ids_RT: Token ids.
            mask_RT: 1 for tokens, 0 for padding; None sees everything.
            image_kv: From `image_kv`; R is a multiple of its B, rows image by image.
            causal: Each token sees itself and what precedes it.
            first_only: Return [R, 1, W], position 0 alone; the last layer then works for that position only.
            rows: [R] indices of the given texts. A text may be named several times, to meet several images: what it is
                before it meets the first image is computed once.
            image_bias: [B, 1, 1, S], added to the scores of cross-attention: what stands in an image's place may have padding.
        """
        x_RTW: Tensor = self.embeddings(ids_RT)
        bias = None
        if mask_RT is not None:
            visible = mask_RT.to(x_RTW.dtype)[:, None, None, :]
            if causal:
                length = ids_RT.shape[1]
                visible = visible * visible.new_ones(length, length).tril()
            bias = (1 - visible) * MASKED
        last = len(self.layers) - 1
        for i, layer in enumerate(self.in_order()):
            only = first_only and i == last
            x_RTW = layer.self_block(x_RTW, bias, causal=causal and bias is None, first_only=only)
            if i == 0 and rows is not None:
                x_RTW = x_RTW.index_select(0, rows)  # whose gradient costs a third of that of x[rows]
                bias = bias.index_select(0, rows) if bias is not None else None
            if image_kv is not None and layer.cross is not None:
                x_RTW = layer.cross(x_RTW, image_kv[i], image_bias)
            x_RTW = layer.feed_forward(x_RTW)
        return x_RTW

    def step(
        self,
        ids_RT: Tensor,
        image_kv: list[KeysValues],
        cache: list[KeysValues],
        start: int,
        *,
        image_bias: Tensor | None = None,
    ) -> Tensor:
        """Causal states [R, T, W] of the positions from `start`, which the cache then holds too."""
        x_RTW: Tensor = self.embeddings(ids_RT, start)
        length = ids_RT.shape[1]
        bias = None
        if length > 1:
            bias = torch.full((length, start + length), MASKED, dtype=x_RTW.dtype, device=x_RTW.device).triu(start + 1)
        for layer, kv, keys_values in zip(self.in_order(), image_kv, cache, strict=True):
            x_RTW = layer.self_block.cached(x_RTW, keys_values, start, bias)
            assert layer.cross is not None
            x_RTW = layer.feed_forward(layer.cross(x_RTW, kv, image_bias))
        return x_RTW

    def step_at(self, ids_R1: Tensor, image_kv: list[KeysValues], cache: list[KeysValues], position_1: Tensor) -> Tensor:
        """As `step` for one token at a position that the device holds: no shape or address depends on it."""
        x_R1W = self.embeddings.placed(ids_R1, self.embeddings.positions.weight.index_select(0, position_1))
        places_L = torch.arange(cache[0][0].shape[2], device=position_1.device)
        bias_L = (places_L > position_1).to(x_R1W.dtype) * MASKED
        bias = bias_L.expand(1, 1, 1, -1)
        for layer, kv, keys_values in zip(self.in_order(), image_kv, cache, strict=True):
            x_R1W = layer.self_block.cached_at(x_R1W, keys_values, position_1, bias)
            assert layer.cross is not None
            x_R1W = layer.feed_forward(layer.cross(x_R1W, kv))
        return x_R1W


class LanguageHead(nn.Module):
    """BERT's prediction head: dense, activation, norm, projection to the vocabulary, tied to the embedding `words` if given."""

    def __init__(self, config: BertConfig, words: nn.Embedding | None) -> None:
        super().__init__()
        self.activation = config.activation
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.vocabulary = nn.Linear(config.width, config.vocab_size)
        if words is not None:
            self.vocabulary.weight = words.weight

    def forward(self, x_W: Tensor) -> Tensor:
        """[..., W] -> [..., V]."""
        scores_V: Tensor = self.vocabulary(self.norm(activate(self.dense(x_W), self.activation)))
        return scores_V
