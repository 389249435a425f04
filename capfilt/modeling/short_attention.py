"""Attention of short sequences as plain batched products, its gradient written by hand: for training on a CPU, where the fused
kernel neither pays for so few keys nor uses a second thread well.

Knows nothing of networks. The same mathematics as `layers.attend`, in another order of sums.

Axes at the end of tensor names: B batch, T query positions, S key positions, H heads, D width of one head, N = B * H.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGEST = 64
"""Keys, up to which the plain products were the faster."""


def is_short(q_BHTD: Tensor, k_BHSD: Tensor, bias: Tensor | None) -> bool:
    """Whether `short_attention` is the faster way: in float32 on a CPU, with gradients on and few keys.

    Not whether these tensors want a gradient: a frozen encoder gives the bits of one that learns.
    """
    learns = torch.is_grad_enabled() and not (bias is not None and bias.requires_grad)
    return learns and q_BHTD.device.type == "cpu" and q_BHTD.dtype == torch.float32 and k_BHSD.shape[2] <= LONGEST


def short_attention(q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, bias: Tensor | None, *, causal: bool) -> Tensor:
    """As `layers.attend` without dropout, [B, H, T, D]. `bias` gets no gradient."""
    out_BHTD: Tensor = _ShortAttention.apply(q_BHTD, k_BHSD, v_BHSD, bias, causal)  # type: ignore[no-untyped-call]
    return out_BHTD


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
        batch, heads, queries, width = q_BHTD.shape
        scale = 1 / math.sqrt(width)
        q_NTD, k_NSD, v_NSD = (x.reshape(batch * heads, -1, width) for x in (q_BHTD, k_BHSD, v_BHSD))
        scores_NTS = torch.bmm(q_NTD * scale, k_NSD.transpose(1, 2))
        if bias is not None:
            scores_NTS.view(batch, heads, queries, -1).add_(bias)
        if causal:
            scores_NTS.add_(torch.full(scores_NTS.shape[1:], -torch.inf).triu(1))
        weights_NTS = torch.softmax(scores_NTS, -1)
        ctx.save_for_backward(q_NTD, k_NSD, v_NSD, weights_NTS)
        ctx.heads, ctx.scale = heads, scale
        return torch.bmm(weights_NTS, v_NSD).view(batch, heads, queries, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTD: Tensor) -> tuple[Tensor | None, ...]:
        q_NTD, k_NSD, v_NSD, weights_NTS = ctx.saved_tensors
        grad_NTD = grad_BHTD.reshape(q_NTD.shape)
        dv_NSD = torch.bmm(weights_NTS.transpose(1, 2), grad_NTD)
        dweights_NTS = torch.bmm(grad_NTD, v_NSD.transpose(1, 2))
        dscores_NTS = torch._softmax_backward_data(dweights_NTS, weights_NTS, -1, weights_NTS.dtype).mul_(ctx.scale)
        dq_NTD = torch.bmm(dscores_NTS, k_NSD)
        dk_NSD = torch.bmm(dscores_NTS.transpose(1, 2), q_NTD)
        dq, dk, dv = (x.view(-1, ctx.heads, *x.shape[1:]) for x in (dq_NTD, dk_NSD, dv_NSD))
        return dq, dk, dv, None, None
