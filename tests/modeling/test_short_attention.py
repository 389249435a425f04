"""Attention of short sequences is attention: values and gradients, against torch's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from capfilt.modeling.layers import attend
from capfilt.modeling.short_attention import LONGEST, is_short, short_attention

B, H, T, S, D = 3, 2, 5, 7, 4
MASKED = -10_000.0


def drawn(keys: int, dtype: torch.dtype, *, learning: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as the layers give them: views of one product, not contiguous."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(B, T, H, D, generator=generator, dtype=dtype).transpose(1, 2)
    k, v = torch.randn(B, keys, 2, H, D, generator=generator, dtype=dtype).permute(2, 0, 3, 1, 4).unbind(0)
    return (q.requires_grad_(learning), k.detach().requires_grad_(learning), v.detach().requires_grad_(learning))


def padding(keys: int, dtype: torch.dtype) -> Tensor:
    """The last two keys of the second row are not seen."""
    bias = torch.zeros(B, 1, 1, keys, dtype=dtype)
    bias[1, :, :, -2:] = MASKED
    return bias


CASES: dict[str, dict[str, Any]] = {
    "all is seen": {"keys": S, "masked": False, "causal": False},
    "padding": {"keys": S, "masked": True, "causal": False},
    "causal": {"keys": T, "masked": False, "causal": True},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_values_and_gradients_are_those_of_torch(case: dict[str, Any]) -> None:
    found: list[list[Tensor]] = []
    weight = torch.randn(B, H, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for fused in (True, False):
        q, k, v = drawn(case["keys"], torch.float64)
        bias = padding(case["keys"], torch.float64) if case["masked"] else None
        if fused:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=case["causal"])
        else:
            out = short_attention(q, k, v, bias, causal=case["causal"])
        found.append([out, *torch.autograd.grad((out * weight).sum(), (q, k, v))])
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_gradient_is_that_of_finite_differences(case: dict[str, Any]) -> None:
    bias = padding(case["keys"], torch.float64) if case["masked"] else None
    inputs = drawn(case["keys"], torch.float64)
    assert torch.autograd.gradcheck(lambda q, k, v: short_attention(q, k, v, bias, causal=case["causal"]), inputs)


def test_only_inputs_that_learn_need_gradients() -> None:
    q, k, v = drawn(S, torch.float32)
    expected = torch.autograd.grad(short_attention(q, k, v, None, causal=False).sum(), (q,))[0]
    found = torch.autograd.grad(short_attention(q, k.detach(), v.detach(), None, causal=False).sum(), (q,))[0]
    assert torch.equal(found, expected)


def test_attend_takes_it_where_gradients_are_on_and_keys_are_few() -> None:
    q, k, v = drawn(S, torch.float32)
    assert is_short(q, k, None)
    assert "_ShortAttention" in str(attend(q, k, v).grad_fn)
    assert "_ShortAttention" not in str(attend(q, k, v, dropout=0.1).grad_fn)
    with torch.no_grad():
        assert not is_short(q, k, None)
    assert not is_short(*drawn(S, torch.bfloat16)[:2], None)
    assert not is_short(*drawn(LONGEST + 1, torch.float32)[:2], None)
    learning_bias = torch.zeros(B, H, T, S, requires_grad=True)
    assert not is_short(q, k, learning_bias)
    attend(q, k, v, learning_bias).sum().backward()  # type: ignore[no-untyped-call]
    assert learning_bias.grad is not None


def test_made_again_in_the_backward_pass_the_gradient_is_the_same_bits() -> None:
    q, k, v = drawn(T, torch.float32)
    kept = torch.autograd.grad(attend(q, k, v, causal=True).square().sum(), (q, k, v))
    again = checkpoint(lambda *qkv: attend(*qkv, causal=True), q, k, v, use_reentrant=False)
    for expected, found in zip(kept, torch.autograd.grad(again.square().sum(), (q, k, v)), strict=True):
        assert torch.equal(found, expected)


def test_what_is_frozen_gives_the_same_bits() -> None:
    q, k, v = drawn(S, torch.float32)
    assert torch.equal(attend(q, k, v), attend(q.detach(), k.detach(), v.detach()))
