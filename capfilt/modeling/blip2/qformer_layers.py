"""The Q-Former's transformer: queries and texts share self-attention, queries alone look at the picture (BLIP-2 section 3.1).

Five ways through it, which differ in who sees whom. Knows nothing of heads, losses or of how a text is decoded.

Axes at the end of tensor names: B images, R texts (rows), N image tokens, D image width, Q queries, T text tokens, W width.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from capfilt.config.architectures.blip2 import QFormerConfig
from capfilt.config.architectures.parts import BertConfig
from capfilt.modeling.layers import KeysValues, attend, join_heads
from capfilt.modeling.text import MASKED, CrossBlock, FeedForwardBlock, SelfBlock


class QFormerLayer(nn.Module):
    """Self-attention for all; then cross-attention (in some layers) and a feed-forward for queries, another one for texts."""

    def __init__(self, config: BertConfig, image_width: int, *, looks: bool, reads: bool) -> None:
        """`looks`: has cross-attention. `reads`: has the texts' feed-forward."""
        super().__init__()
        self.self_block = SelfBlock(config)
        self.cross = CrossBlock(config, image_width) if looks else None
        self.query_feed_forward = FeedForwardBlock(config)
        self.feed_forward = FeedForwardBlock(config) if reads else None

    def queries(self, x_RQW: Tensor, image: KeysValues | None) -> Tensor:
        """What queries go through after self-attention."""
        if self.cross is not None:
            assert image is not None
            x_RQW = self.cross(x_RQW, image)
        out_RQW: Tensor = self.query_feed_forward(x_RQW)
        return out_RQW

    def texts(self, x_RTW: Tensor) -> Tensor:
        """What texts go through after self-attention."""
        assert self.feed_forward is not None
        out_RTW: Tensor = self.feed_forward(x_RTW)
        return out_RTW

    def attended(self, x_RTW: Tensor, prefix: KeysValues | None, bias: Tensor | None) -> tuple[Tensor, KeysValues]:
        """Self-attention, residual and norm, with further keys and values in front; and the own keys and values."""
        attention = self.self_block.attention
        q, k, v = attention.project(x_RTW)
        keys, values = (k, v) if prefix is None else (torch.cat([prefix[0], k], 2), torch.cat([prefix[1], v], 2))
        mixed = attend(q, keys, values, bias, dropout=attention.dropout if self.training else 0.0)
        out_RTW: Tensor = self.self_block.norm(self.self_block.dropout(attention.out(join_heads(mixed))) + x_RTW)
        return out_RTW, (k, v)


@dataclass(frozen=True)
class Queried:
    """What the queries made of B images."""

    states_BQW: Tensor
    """Their outputs."""
    keys_values: list[KeysValues]
    """Of their self-attention, per layer, [B, H, Q, D]: what a text that is generated sees of the picture."""


class QFormerTower(nn.Module):
    """Embeddings, queries and layers."""

    def __init__(self, config: QFormerConfig, image_width: int, *, reads: bool) -> None:
        """`reads`: has the parts that texts need; without them only `look` works."""
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, config.queries, config.width))
        if reads:
            self.words = nn.Embedding(config.vocab_size, config.width)
            self.positions = nn.Embedding(config.max_positions, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            QFormerLayer(config, image_width, looks=i % config.cross_every == 0, reads=reads) for i in range(config.layers)
        )

    def in_order(self) -> list[QFormerLayer]:
        return cast("list[QFormerLayer]", list(self.layers))

    def image_kv(self, image_BND: Tensor) -> list[KeysValues | None]:
        """Cross-attention keys and values of the images per layer, None where it has none: made once, used by every text."""
        return [None if layer.cross is None else layer.cross.attention.keys_values(image_BND) for layer in self.in_order()]

    def look(self, image_kv: list[KeysValues | None], images: int) -> Queried:
        """The queries alone with the images; no text."""
        x_BQW = self._embedded_queries(images)
        found: list[KeysValues] = []
        for layer, kv in zip(self.in_order(), image_kv, strict=True):
            x_BQW, own = layer.attended(x_BQW, None, None)
            found.append(own)
            x_BQW = layer.queries(x_BQW, kv)
        return Queried(x_BQW, found)

    def read(self, ids_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """[R, 1, W]: position 0 of the texts alone, each token seeing all (unimodal mask)."""
        x_RTW = self._embedded(ids_RT)
        bias = _hidden(mask_RT, x_RTW.dtype)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.in_order()):
            x_RTW = layer.texts(layer.self_block(x_RTW, bias, causal=False, first_only=i == last))
        return x_RTW

    def match(self, ids_RT: Tensor, mask_RT: Tensor, image_kv: list[KeysValues | None]) -> Tensor:
        """[R, Q, W]: the queries' outputs when queries and text see each other (bidirectional mask).

        R is a multiple of the images' B, rows image by image.
        """
        x_RTW = self._embedded(ids_RT)
        queries = self.queries.shape[1]
        x_RSW = torch.cat([self._embedded_queries(len(ids_RT)), x_RTW], 1)
        bias = _hidden(torch.cat([mask_RT.new_ones(len(mask_RT), queries), mask_RT], 1), x_RSW.dtype)
        last = len(self.layers) - 1
        for i, (layer, kv) in enumerate(zip(self.in_order(), image_kv, strict=True)):
            x_RSW = layer.self_block(x_RSW, bias, causal=False, first_only=False)
            seen_RQW = layer.queries(x_RSW[:, :queries], kv)
            if i == last:  # nobody asks for what the last layer makes of the text
                return seen_RQW
            x_RSW = torch.cat([seen_RQW, layer.texts(x_RSW[:, queries:])], 1)
        return x_RSW[:, :queries]

    def write(self, ids_RT: Tensor, mask_RT: Tensor | None, prefix: list[KeysValues]) -> Tensor:
        """States [R, T, W] of texts that see the queries and what precedes each token (multimodal causal mask).

        Args:
            ids_RT: One text per row of `prefix`.
            mask_RT: 1 for tokens; None where padding stands to the right and its states are not wanted.
            prefix: `Queried.keys_values`: queries do not see the text, so they are computed without it.
        """
        x_RTW = self._embedded(ids_RT)
        length, queries = ids_RT.shape[1], self.queries.shape[1]
        visible = x_RTW.new_ones(length, queries + length).tril(queries)
        if mask_RT is not None:
            visible = visible * torch.cat([mask_RT.new_ones(len(mask_RT), queries), mask_RT], 1)[:, None, None].to(x_RTW.dtype)
        bias = (1 - visible) * MASKED
        for layer, own in zip(self.in_order(), prefix, strict=True):
            x_RTW = layer.texts(layer.attended(x_RTW, own, bias)[0])
        return x_RTW

    def step(self, ids_RT: Tensor, cache: list[KeysValues], start: int) -> Tensor:
        """As `write`, for the text's positions from `start`; the cache holds the queries, and then these tokens."""
        x_RTW = self._embedded(ids_RT, start)
        at, length = self.queries.shape[1] + start, ids_RT.shape[1]
        bias = None
        if length > 1:
            bias = torch.full((length, at + length), MASKED, dtype=x_RTW.dtype, device=x_RTW.device).triu(at + 1)
        for layer, keys_values in zip(self.in_order(), cache, strict=True):
            x_RTW = layer.texts(layer.self_block.cached(x_RTW, keys_values, at, bias))
        return x_RTW

    def _embedded(self, ids_RT: Tensor, start: int = 0) -> Tensor:
        positions_TW = self.positions.weight[start : start + ids_RT.shape[1]]
        out_RTW: Tensor = self.dropout(self.norm(self.words(ids_RT) + positions_TW))
        return out_RTW

    def _embedded_queries(self, rows: int) -> Tensor:
        out_RQW: Tensor = self.dropout(self.norm(self.queries.expand(rows, -1, -1)))
        return out_RQW


def _hidden(mask_RS: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of keys that are padding."""
    return (1 - mask_RS.to(dtype)[:, None, None, :]) * MASKED
