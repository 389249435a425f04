"""ClipCap's mappers: from one image embedding to the k vectors that stand before a text (ClipCap section 3.3).

Know nothing of images or of the language model but its width.

Axes at the end of tensor names: B images, E image embedding, k prefix vectors, c vectors that the embedding becomes, W width.
"""

from typing import assert_never

import torch
from torch import Tensor, nn

from capfilt.config.architectures.clipcap import ClipCapArchitecture, MlpMapper, TransformerMapper
from capfilt.modeling.layers import SelfAttention


class Mlp(nn.Module):
    """Linear, tanh, linear."""

    def __init__(self, config: MlpMapper, embed_dim: int, prefix_length: int, width: int) -> None:
        super().__init__()
        hidden = config.hidden or prefix_length * width // 2
        self.width = width
        self.up = nn.Linear(embed_dim, hidden)
        self.down = nn.Linear(hidden, prefix_length * width)

    def forward(self, embed_BE: Tensor) -> Tensor:
        """[B, k, W]."""
        out_BF: Tensor = self.down(self.up(embed_BE).tanh())
        return out_BF.view(len(embed_BE), -1, self.width)


class MapperBlock(nn.Module):
    """Pre-norm transformer block with a ReLU, and no bias in queries, keys and values, as in the published code."""

    def __init__(self, config: TransformerMapper, width: int) -> None:
        super().__init__()
        hidden = int(width * config.mlp_ratio)
        self.norm_1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.heads)
        self.attention.qkv = nn.Linear(width, 3 * width, bias=False)
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x_BSW: Tensor) -> Tensor:
        x_BSW = x_BSW + self.attention(self.norm_1(x_BSW))
        out_BSW: Tensor = x_BSW + self.down(self.up(self.norm_2(x_BSW)).relu())
        return out_BSW


class Transformer(nn.Module):
    """A transformer, without a norm at its end, over the embedding's vectors and the constants; the constants' outputs count."""

    def __init__(self, config: TransformerMapper, embed_dim: int, prefix_length: int, width: int) -> None:
        super().__init__()
        self.clip_length = config.clip_length
        self.linear = nn.Linear(embed_dim, config.clip_length * width)
        self.constants = nn.Parameter(torch.randn(prefix_length, width))
        self.blocks = nn.ModuleList(MapperBlock(config, width) for _ in range(config.layers))

    def forward(self, embed_BE: Tensor) -> Tensor:
        """[B, k, W]."""
        images, width = len(embed_BE), self.constants.shape[1]
        x_BcW = self.linear(embed_BE).view(images, self.clip_length, width)
        x_BSW = torch.cat([x_BcW, self.constants.to(x_BcW).expand(images, -1, -1)], dim=1)
        for block in self.blocks:
            x_BSW = block(x_BSW)
        return x_BSW[:, self.clip_length :]


def build_mapper(config: ClipCapArchitecture) -> Mlp | Transformer:
    """With fresh weights: torch's own start, constants N(0, 1), as in the published code."""
    match config.mapper:
        case MlpMapper():
            return Mlp(config.mapper, config.embed_dim, config.prefix_length, config.text.width)
        case TransformerMapper():
            return Transformer(config.mapper, config.embed_dim, config.prefix_length, config.text.width)
        case _:
            assert_never(config.mapper)
