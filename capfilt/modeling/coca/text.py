"""CoCa's text decoder in its two halves: unimodal without cross-attention, multimodal with it (CoCa section 3.2).

Pre-norm and causal throughout. Knows nothing of pixels, of losses, or of how a text is decoded.

Axes at the end of tensor names: R texts (rows), T tokens, S keys, W text width, Q image queries, P pooler width.
"""

from typing import cast

import torch
from torch import Tensor, nn

from capfilt.config.architectures.coca import CocaMultimodalConfig, CocaTextConfig
from capfilt.config.architectures.parts import Activation
from capfilt.modeling.layers import CrossAttention, FeedForward, KeysValues, SelfAttention, attend, join_heads
from capfilt.modeling.text import MASKED


class SelfBranch(nn.Module):
    """Norm, causal self-attention, residual."""

    def __init__(self, width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, norm_eps)
        self.attention = SelfAttention(width, heads)

    def forward(self, x_RTW: Tensor, bias: Tensor | None) -> Tensor:
        """`bias` says what is hidden; None: causal."""
        out_RTW: Tensor = x_RTW + self.attention(self.norm(x_RTW), bias, causal=bias is None)
        return out_RTW

    def cached(self, x_RTW: Tensor, cache: KeysValues, start: int, bias: Tensor | None) -> Tensor:
        """As `forward`, for positions from `start`; their keys and values are written into the cache."""
        stop = start + x_RTW.shape[1]
        q, k, v = self.attention.project(self.norm(x_RTW))
        keys, values = cache
        keys[:, :, start:stop] = k
        values[:, :, start:stop] = v
        mixed = attend(q, keys[:, :, :stop], values[:, :, :stop], bias)
        out_RTW: Tensor = x_RTW + self.attention.out(join_heads(mixed))
        return out_RTW


class CrossBranch(nn.Module):
    """Norm, cross-attention to the normed image queries, residual."""

    def __init__(self, width: int, image_width: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, norm_eps)
        self.norm_image = nn.LayerNorm(image_width, norm_eps)
        self.attention = CrossAttention(width, image_width, heads)

    def keys_values(self, image_BQP: Tensor) -> KeysValues:
        return self.attention.keys_values(self.norm_image(image_BQP))

    def forward(self, x_RTW: Tensor, image: KeysValues) -> Tensor:
        out_RTW: Tensor = x_RTW + self.attention(self.norm(x_RTW), image)
        return out_RTW


class MlpBranch(nn.Module):
    """Norm, feed-forward, residual."""

    def __init__(self, width: int, hidden: int, norm_eps: float, activation: Activation) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, norm_eps)
        self.mlp = FeedForward(width, hidden, activation)

    def forward(self, x_RTW: Tensor) -> Tensor:
        out_RTW: Tensor = x_RTW + self.mlp(self.norm(x_RTW))
        return out_RTW


class UnimodalLayer(nn.Module):
    def __init__(self, config: CocaTextConfig) -> None:
        super().__init__()
        self.self_branch = SelfBranch(config.width, config.heads, config.norm_eps)
        self.mlp_branch = MlpBranch(config.width, config.intermediate, config.norm_eps, config.activation)


class MultimodalLayer(nn.Module):
    """Self-attention, with open_clip a feed-forward, cross-attention, feed-forward."""

    def __init__(self, config: CocaMultimodalConfig, text: CocaTextConfig, image_width: int) -> None:
        super().__init__()
        sizes = (text.width, config.intermediate, text.norm_eps, text.activation)
        self.self_branch = SelfBranch(text.width, config.heads, text.norm_eps)
        self.self_mlp = MlpBranch(*sizes) if config.self_mlp else nn.Identity()
        self.cross_branch = CrossBranch(text.width, image_width, config.heads, text.norm_eps)
        self.mlp_branch = MlpBranch(*sizes)


class UnimodalText(nn.Module):
    """Token embeddings and the first half of the layers; a learned [CLS] at the end of the text reads it whole."""

    def __init__(self, config: CocaTextConfig) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.randn(config.max_positions + 1, config.width) * 0.01)
        self.cls = nn.Parameter(torch.randn(config.width) * 0.01)
        self.layers = nn.ModuleList(UnimodalLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, ids_RT: Tensor, mask_RT: Tensor, *, with_cls: bool = True) -> tuple[Tensor, Tensor | None]:
        """States [R, T, W] of the tokens as the second half takes them (without a final norm), and the normed [CLS], [R, W].

        One pass gives both: no token sees [CLS], which stands behind all of them, so without it the tokens' states are the same.
        """
        rows, length = ids_RT.shape
        x_RTW = self.words(ids_RT) + self.positions[:length]
        visible_RS = self.visible(mask_RT)
        if with_cls:
            if self.config.cls_position == "padded":
                position_RW = self.positions[length].expand(rows, -1)
            else:
                position_RW = self.positions[mask_RT.sum(1)]
            x_RTW = torch.cat([x_RTW, (self.cls + position_RW)[:, None]], dim=1)
        else:
            visible_RS = visible_RS[:, :length]
        seen_RTS = visible_RS[:, None, None, :].to(x_RTW.dtype).expand(-1, -1, x_RTW.shape[1], -1).tril()
        bias = (1 - seen_RTS) * MASKED
        for layer in self.in_order():
            x_RTW = layer.mlp_branch(layer.self_branch(x_RTW, bias))
        return (x_RTW[:, :-1], self.norm(x_RTW[:, -1])) if with_cls else (x_RTW, None)

    def in_order(self) -> list[UnimodalLayer]:
        return cast("list[UnimodalLayer]", list(self.layers))

    def visible(self, mask_RT: Tensor) -> Tensor:
        """[R, T + 1]: 1 for the keys, [CLS] last, that later positions may see."""
        one_R1 = mask_RT.new_ones(len(mask_RT), 1)
        return torch.cat([mask_RT, one_R1] if self.config.cls_mask == "corrected" else [one_R1, mask_RT], dim=1)

    def step(self, ids_RT: Tensor, cache: list[KeysValues], start: int, bias: Tensor) -> Tensor:
        """States [R, T, W] of the tokens from position `start`, which the cache then holds too."""
        x_RTW: Tensor = self.words(ids_RT) + self.positions[start : start + ids_RT.shape[1]]
        for layer, keys_values in zip(self.in_order(), cache, strict=True):
            x_RTW = layer.mlp_branch(layer.self_branch.cached(x_RTW, keys_values, start, bias))
        return x_RTW


class MultimodalText(nn.Module):
    """The second half of the layers, a final norm, and the projection to the vocabulary."""

    def __init__(self, config: CocaMultimodalConfig, text: CocaTextConfig, image_width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MultimodalLayer(config, text, image_width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(text.width, text.norm_eps)
        self.vocabulary = nn.Linear(text.width, text.vocab_size, bias=False)

    def in_order(self) -> list[MultimodalLayer]:
        return cast("list[MultimodalLayer]", list(self.layers))

    def image_kv(self, image_BQP: Tensor) -> list[KeysValues]:
        """Cross-attention keys and values of the images, one pair per layer: made once, used by every text and step."""
        return [layer.cross_branch.keys_values(image_BQP) for layer in self.in_order()]

    def forward(self, x_RTW: Tensor, image_kv: list[KeysValues]) -> Tensor:
        """Normed states [R, T, W]; padding needs no mask, since it stands behind what is kept and no token sees a later one."""
        for layer, kv in zip(self.in_order(), image_kv, strict=True):
            x_RTW = layer.self_mlp(layer.self_branch(x_RTW, None))
            x_RTW = layer.mlp_branch(layer.cross_branch(x_RTW, kv))
        out_RTW: Tensor = self.norm(x_RTW)
        return out_RTW

    def step(self, x_RTW: Tensor, image_kv: list[KeysValues], cache: list[KeysValues], start: int) -> Tensor:
        """Normed states [R, T, W] of the positions from `start`, which the cache then holds too."""
        length = x_RTW.shape[1]
        bias = None
        if length > 1:
            bias = torch.full((length, start + length), MASKED, dtype=x_RTW.dtype, device=x_RTW.device).triu(start + 1)
        for layer, kv, keys_values in zip(self.in_order(), image_kv, cache, strict=True):
            x_RTW = layer.self_mlp(layer.self_branch.cached(x_RTW, keys_values, start, bias))
            x_RTW = layer.mlp_branch(layer.cross_branch(x_RTW, kv))
        out_RTW: Tensor = self.norm(x_RTW)
        return out_RTW
