"""The visual dictionary and the visual tokens made with it (SOHO sections 3.1 and 3.2).

Knows nothing of texts, of losses or of what made the features.

Axes at the end of tensor names: B images, C channels of the trunk, D width of features, codes and tokens, H and W positions of
the grid, N all of them (row by row), M features in any order, K codes.
"""

import math
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.soho import VisualDictionaryConfig

SMOOTHING = 1e-5
"""Added to every count before counts become shares (the published code's Laplace smoothing)."""


class VisualDictionary(nn.Module):
    """K codes without gradient, which follow the features that fall on them.

    Everything is computed in float32, under autocast too.
    """

    codes_KD: Tensor
    uses_K: Tensor
    counts_K: Tensor
    sums_KD: Tensor

    def __init__(self, config: VisualDictionaryConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("codes_KD", torch.randn(config.codes, width))
        self.register_buffer("uses_K", torch.zeros(config.codes, dtype=torch.int64))
        """How many features ever fell on each code in training."""
        if config.update == "ema_count":
            self.register_buffer("counts_K", torch.zeros(config.codes))
            self.register_buffer("sums_KD", torch.zeros(config.codes, width))

    @torch.no_grad()
    def indices(self, features_MD: Tensor) -> Tensor:
        """[M] int64: the code nearest by L2, argmin_j |v - d_j|."""
        codes_KD = self.codes_KD.float()
        with torch.autocast(features_MD.device.type, enabled=False):
            # |v|^2 is the same for every code.
            distance_MK = torch.addmm(codes_KD.square().sum(1), features_MD.float(), codes_KD.T, alpha=-2)
        return distance_MK.argmin(1)

    def forward(self, features_MD: Tensor, indices_M: Tensor) -> Tensor:
        """[M, D]: the codes, through which the gradient passes as if they were the features (straight-through)."""
        codes_MD = self.codes_KD[indices_M].to(features_MD.dtype)
        return features_MD + (codes_MD - features_MD).detach()

    @torch.no_grad()
    def update(self, features_MD: Tensor, indices_M: Tensor) -> None:
        """Move the codes once by a batch of features and the codes they fell on; see `config.update`."""
        config, codes_KD = self.config, self.codes_KD
        features_MD = features_MD.float()
        count_K = torch.bincount(indices_M, minlength=config.codes)
        sum_KD = features_MD.new_zeros(codes_KD.shape).index_add_(0, indices_M, features_MD)
        self.uses_K += count_K
        count_K1 = count_K.to(sum_KD.dtype)[:, None]
        match config.update:
            case "ema_mean":
                moved_KD = config.decay * codes_KD + (1 - config.decay) * sum_KD / count_K1.clamp_min(1)
                is_kept = True
            case "ema_count":
                self.counts_K.mul_(config.decay).add_(count_K1[:, 0], alpha=1 - config.decay)
                self.sums_KD.mul_(config.decay).add_(sum_KD, alpha=1 - config.decay)
                total = self.counts_K.sum()
                smooth_K = (self.counts_K + SMOOTHING) / (total + config.codes * SMOOTHING) * total
                moved_KD = self.sums_KD / smooth_K[:, None]
                is_kept = config.unused == "keep"
            case _:
                assert_never(config.update)
        codes_KD.copy_(torch.where(count_K1 > 0, moved_KD, codes_KD) if is_kept else moved_KD)


class ConvNorm(nn.Module):
    """A 1x1 convolution, with batch norm on request."""

    def __init__(self, before: int, out: int, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, out, 1, bias=not norm)
        self.bn = nn.BatchNorm2d(out) if norm else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BDHW: Tensor = self.conv(x_BCHW)
        return out_BDHW if self.bn is None else self.bn(out_BDHW)


class VisualEmbedding(nn.Module):
    """Trunk features to visual tokens: pooled and projected, looked up in the dictionary, mixed, placed.

    2x2 max pooling stands before the 1x1 convolution, as in the published code; the paper names them the other way round.
    """

    def __init__(self, config: VisualDictionaryConfig, before: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.projection = ConvNorm(before, width, norm=config.norm)
        self.dictionary = VisualDictionary(config, width)
        self.line_before = nn.Linear(width, width) if config.line_before else None
        self.line_after = nn.Linear(width, width) if config.line_after else None
        self.gate = ConvNorm(2 * width, 2, norm=config.norm) if config.mix == "gate" else None
        self.mask = nn.Parameter(torch.randn(1, width))
        self.norm = nn.LayerNorm(width)

    def features(self, trunk_BCHW: Tensor) -> Tensor:
        """[B, D, H / 2, W / 2]: the features v of the paper."""
        features_BDHW: Tensor = self.projection(F.max_pool2d(trunk_BCHW, 2))
        return features_BDHW

    def looked_up(self, features_BDHW: Tensor) -> Tensor:
        """[B * H * W, D], image by image and row by row: what is compared with the codes."""
        features_MD = features_BDHW.permute(0, 2, 3, 1).flatten(0, 2)
        return features_MD if self.line_before is None else self.line_before(features_MD)

    def forward(self, features_BDHW: Tensor, looked_up_MD: Tensor, indices_M: Tensor) -> Tensor:
        """[B, N, D]: features and their codes as one, before masking and positions."""
        codes_MD = self.dictionary(looked_up_MD, indices_M)
        if self.line_after is not None:
            codes_MD = self.line_after(codes_MD)
        batch, width, height, across = features_BDHW.shape
        codes_BDHW = codes_MD.view(batch, height, across, width).permute(0, 3, 1, 2)
        mixed_BDHW: Tensor
        match self.config.mix:
            case "gate":
                assert self.gate is not None
                share_B2HW = self.gate(torch.cat([codes_BDHW, features_BDHW], dim=1)).softmax(1)
                mixed_BDHW = codes_BDHW * share_B2HW[:, :1] + features_BDHW * share_B2HW[:, 1:]
            case "sum":
                mixed_BDHW = codes_BDHW + features_BDHW
            case "code":
                mixed_BDHW = codes_BDHW
            case _:
                assert_never(self.config.mix)
        return mixed_BDHW.flatten(2).transpose(1, 2)

    def place(self, mixed_BND: Tensor, visible_BHW: Tensor, masked_BN: Tensor | None = None) -> Tensor:
        """[B, N, D]: the tokens that the transformer reads. Positions come after masking, so a masked place is known."""
        if masked_BN is not None:
            mixed_BND = torch.where(masked_BN[..., None], self.mask.to(mixed_BND.dtype), mixed_BND)
        positions_BND = sine_positions(visible_BHW, mixed_BND.shape[-1]).to(mixed_BND.dtype)
        tokens_BND: Tensor = self.norm(mixed_BND + positions_BND)
        return tokens_BND


def sine_positions(visible_BHW: Tensor, width: int) -> Tensor:
    """[B, H * W, width]: 2-D sine positions, half for the row and half for the column, on the visible part scaled to one turn.

    As DETR's: the first row is 2 pi / rows, the last 2 pi; sines and cosines alternate.
    """
    half = width // 2
    wavelength = torch.pow(10_000.0, 2 * torch.arange(half // 2, dtype=torch.float32, device=visible_BHW.device) / half)

    def one_axis(axis: int) -> Tensor:
        place_BHW = visible_BHW.float().cumsum(axis)
        place_BHW = place_BHW / (place_BHW.narrow(axis, -1, 1) + 1e-6) * (2 * math.pi)
        angle = place_BHW[..., None] / wavelength
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)

    return torch.cat([one_axis(1), one_axis(2)], dim=-1).flatten(1, 2)


def visible_positions(sizes_B2: Tensor, canvas: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """bool [B, H, W]: positions whose top left pixel belongs to the picture and not to padding right of or below it.

    Args:
        sizes_B2: Height and width of each picture in pixels.
        canvas: Height and width of the padded batch. (The published code takes the height for both.)
        grid: Positions, H and W.
    """
    axes = []
    for axis in range(2):
        corner = torch.arange(grid[axis], device=sizes_B2.device) * canvas[axis] // grid[axis]
        axes.append(corner[None] < sizes_B2[:, axis, None])
    return axes[0][:, :, None] & axes[1][:, None, :]


def same_code(indices_BN: Tensor, visible_BN: Tensor, locations_B: Tensor, chosen_B: Tensor) -> Tensor:
    """bool [B, N]: what masked visual modelling hides: of each chosen picture all positions with the code of one location.

    Masking one position alone would leave its neighbours with the same code to copy from (SOHO section 3.3).

    Args:
        indices_BN: Codes.
        visible_BN: Positions that are no padding; a location in the padding masks nothing.
        locations_B: A position of each picture.
        chosen_B: Whether the picture is masked at all.
    """
    code_B1 = indices_BN.gather(1, locations_B[:, None])
    is_chosen_B1 = (chosen_B & visible_BN.gather(1, locations_B[:, None])[:, 0])[:, None]
    return (indices_BN == code_B1) & visible_BN & is_chosen_B1
