"""Attention and feed-forward, the blocks that every network here is made of.

Know nothing of images, texts or losses.

Axes at the end of tensor names: B batch, T query positions, S key positions, W width, H heads, D width of one head.
"""

import math
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.parts import Activation
from capfilt.modeling.short_attention import is_short, short_attention

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, both [B, H, S, D]."""
FEW_QUERIES = 8
"""Up to so many, plain products in bfloat16 are the faster attention on a CPU."""


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The nonlinearity by name."""
    match activation:
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "quick_gelu":
            return x * torch.sigmoid(1.702 * x)
        case _:
            assert_never(activation)


def attend(
    q_BHTD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    bias: Tensor | None = None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention, [B, H, T, D]. `bias` is added to the scores before the softmax; `causal` only without `bias`.

    One query on a CPU, or a few in bfloat16, goes through plain products: torch's fused kernel repacks keys and values at every
    call there, which costs 6-8 times the products of one query in bfloat16, and still more than those of five.
    """
    queries = q_BHTD.shape[2]
    are_few = queries == 1 or (queries <= FEW_QUERIES and q_BHTD.dtype == torch.bfloat16 and not causal)
    if are_few and q_BHTD.device.type == "cpu":
        scores = torch.matmul(q_BHTD * (1 / math.sqrt(q_BHTD.shape[-1])), k_BHSD.transpose(-1, -2))
        if bias is not None:
            scores = scores + bias
        return torch.matmul(F.dropout(scores.softmax(-1), dropout) if dropout else scores.softmax(-1), v_BHSD)
    if not dropout and is_short(q_BHTD, k_BHSD, bias):
        return short_attention(q_BHTD, k_BHSD, v_BHSD, bias, causal=causal)
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=bias, is_causal=causal, dropout_p=dropout)


def split_heads(x_BTW: Tensor, heads: int) -> Tensor:
    """[B, T, W] -> [B, H, T, D], a view."""
    batch, length, width = x_BTW.shape
    return x_BTW.view(batch, length, heads, width // heads).transpose(1, 2)


def split_parts(x_BTF: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """[B, T, parts * W] -> that many [B, H, T, D], views."""
    batch, length, width = x_BTF.shape
    return x_BTF.view(batch, length, parts, heads, width // parts // heads).permute(2, 0, 3, 1, 4).unbind(0)


def kv_parts(kv_BSF: Tensor, heads: int) -> KeysValues:
    """Keys and values as views of what one linear map gives."""
    k, v = split_parts(kv_BSF, 2, heads)
    return k, v


def join_heads(x_BHTD: Tensor) -> Tensor:
    return x_BHTD.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one product. `dropout` of its weights, in training."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x_BTW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [B, H, T, D]."""
        q, k, v = split_parts(self.qkv(x_BTW), 3, self.heads)
        return q, k, v

    def forward(self, x_BTW: Tensor, bias: Tensor | None = None, *, causal: bool = False, first_only: bool = False) -> Tensor:
        """[B, T, W], or [B, 1, W] with `first_only`: the output of position 0 alone, for no more work than that needs."""
        if first_only:
            width = x_BTW.shape[-1]
            # Two axes, not three: for a strided [B, 1, W] torch picks its product by whether weights want gradients.
            q_BW = F.linear(x_BTW[:, 0], self.qkv.weight[:width], self.qkv.bias[:width])
            q = split_heads(q_BW[:, None], self.heads)
            kv = F.linear(x_BTW, self.qkv.weight[width:], self.qkv.bias[width:])
            k, v = split_parts(kv, 2, self.heads)
        else:
            q, k, v = self.project(x_BTW)
        mixed = attend(q, k, v, bias, causal=causal, dropout=self.dropout if self.training else 0.0)
        out_BTW: Tensor = self.out(join_heads(mixed))
        return out_BTW


class CrossAttention(nn.Module):
    """Attention from texts to images, the keys and values of an image made once however many texts look at it."""

    def __init__(self, width: int, image_width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(image_width, 2 * width)
        self.out = nn.Linear(width, width)

    def keys_values(self, image_BSW: Tensor, into_BSF: Tensor | None = None) -> KeysValues:
        """`into_BSF` [B, S, 2 W]: memory that they are written into, in place of new one; without gradients.

        On a CPU contiguous: a plain product copies strided ones whole at every call, 4 to 18 times the product of one query. A
        GPU's fused attention reads them as they lie, and the copies would cost as much as the product that made them.
        """
        if into_BSF is not None:
            with torch.no_grad():
                torch.addmm(self.kv.bias, image_BSW.flatten(0, 1), self.kv.weight.T, out=into_BSF.flatten(0, 1))
            return kv_parts(into_BSF, self.heads)
        k, v = kv_parts(self.kv(image_BSW), self.heads)
        return (k, v) if k.is_cuda else (k.contiguous(), v.contiguous())

    def forward(self, x_RTW: Tensor, image: KeysValues, bias: Tensor | None = None) -> Tensor:
        """[R, T, W]. R is a multiple of the images' B, rows image by image; rows of one image share its keys unrepeated.

        `bias` [B, 1, 1, S] is added to the scores.
        """
        rows, length, width = x_RTW.shape
        q_BHTD = split_heads(self.q(x_RTW).view(image[0].shape[0], -1, width), self.heads)
        mixed = attend(q_BHTD, *image, bias, dropout=self.dropout if self.training else 0.0)
        out_RTW: Tensor = self.out(join_heads(mixed).view(rows, length, width))
        return out_RTW


class FeedForward(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, width: int, hidden: int, activation: Activation = "gelu") -> None:
        super().__init__()
        self.activation: Activation = activation
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x_BTW: Tensor) -> Tensor:
        out_BTW: Tensor = self.down(activate(self.up(x_BTW), self.activation))
        return out_BTW


def initialise(module: nn.Module, std: float) -> None:
    """Fresh weights in place: normal with `std` for linear and embedding weights, zero biases, unit norms.

    Draws from torch's global generator; convolutions keep torch's own (fan-in) start.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
