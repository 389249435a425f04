"""Random numbers that belong to a row: a pure function of (seed, step, token), the same in every batch and on every device.

Knows nothing of models. The function is splitmix64's finaliser (Steele et al., OOPSLA 2014) applied to a counter.
"""

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the same bits; torch has no arithmetic on uint64, but its int64 wraps."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def seeds_tensor(seeds: list[int], device: torch.device) -> Tensor:
    """[R] int64 with the bits of 64-bit seeds."""
    return torch.tensor([_signed(seed) for seed in seeds], dtype=torch.int64, device=device)


def gumbel(seeds_R: Tensor, step: int, tokens_RK: Tensor) -> Tensor:
    """Standard Gumbel noise, float64 [R, K], for the given tokens of each row at this step."""
    stream_R = _mix(_mix(seeds_R + _GAMMA) + _signed((step + 1) * 0x9E3779B97F4A7C15))
    bits_RK = _mix(stream_R[:, None] + (tokens_RK + 1) * _GAMMA)
    uniform_RK = (_shift(bits_RK, 11).double() + 0.5) * 2.0**-53
    return -(-uniform_RK.log()).log()
