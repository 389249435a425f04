"""The image encoder: a ViT with a patch or a convolutional stem.

Knows nothing of texts.

Axes at the end of tensor names: B images, C channels, H and W pixels, N tokens (class token first), D width.
"""

import math
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.parts import VisionConfig
from capfilt.modeling.layers import FeedForward, SelfAttention


def sincos_2d(side: int, width: int) -> Tensor:
    """Fixed positions of a square grid, [side * side, width]: half the width for the row, half for the column.

    Coordinates are in units of a 14-token grid, so that the code of a place does not change with the image size.
    """
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    place = (torch.arange(side, dtype=torch.float64) + 0.5) * (14 / side)
    angle = place[:, None] * frequencies
    code = torch.cat([angle.sin(), angle.cos()], dim=1)
    grid = torch.cat([code[:, None].expand(-1, side, -1), code[None].expand(side, -1, -1)], dim=2)
    return grid.reshape(side * side, width).float()


class ConvStem(nn.Sequential):
    """Per halving a 3x3 convolution of stride 2 and one of stride 1, each with batch norm and GELU; widths double; then a 1x1.

    Batch norm, since group and instance norm learnt shapes or colours far slower from noisy texts (docs/log.md). In evaluation
    mode its statistics are fixed, so a picture's tokens do not depend on its neighbours.
    """

    def __init__(self, patch: int, width: int) -> None:
        steps = int(math.log2(patch))
        layers: list[nn.Module] = []
        channels = 3
        for step in range(steps):
            out = max(8, width >> (steps - 1 - step))
            for before, stride in ((channels, 2), (out, 1)):
                layers += [nn.Conv2d(before, out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.GELU()]
            channels = out
        layers.append(nn.Conv2d(channels, width, 1))
        super().__init__(*layers)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        # Channels last: a training step of med_tiny takes 0.93 of the time on a CPU.
        x_BCHW = pixels_BCHW.contiguous(memory_format=torch.channels_last)
        for layer in self:
            x_BCHW = layer(x_BCHW)
        return x_BCHW


class PatchStem(nn.Conv2d):
    """One vector per patch: a convolution whose stride is its kernel (ViT)."""

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        # For three channels in bfloat16 cuDNN takes ten times as long as the product (ViT-B/16 at 384 px).
        return self.as_product(pixels_BCHW) if pixels_BCHW.is_cuda else super().forward(pixels_BCHW)

    def as_product(self, pixels_BCHW: Tensor) -> Tensor:
        """The same as one product of patches and weights; a border that fills no patch is left out, as a convolution does."""
        side = self.kernel_size[0]
        batch, channels, height, width = pixels_BCHW.shape
        rows, columns = height // side, width // side
        whole = pixels_BCHW[:, :, : rows * side, : columns * side]
        patches = whole.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        x_BHWD = F.linear(patches.flatten(3), self.weight.flatten(1), self.bias)
        return x_BHWD.permute(0, 3, 1, 2)


def interpolated(positions_1ND: Tensor, side: int) -> Tensor:
    """Learned positions [1, 1 + s * s, D] on another square grid, [1, 1 + side * side, D]: bicubic but for the class token."""
    old = math.isqrt(positions_1ND.shape[1] - 1)
    if old == side:
        return positions_1ND
    square = positions_1ND[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(square, size=(side, side), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    return torch.cat([positions_1ND[:, :1], grid], dim=1)


class DropPath(nn.Module):
    """In training leaves a branch out for a share of the pictures and scales it for the others (arXiv:1603.09382)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x_BND: Tensor) -> Tensor:
        if not self.share or not self.training:
            return x_BND
        kept = 1 - self.share
        return x_BND * x_BND.new_empty(len(x_BND), 1, 1).bernoulli_(kept) / kept


class VisionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: VisionConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.width, config.norm_eps)
        self.attention = SelfAttention(config.width, config.heads)
        self.norm_2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = FeedForward(config.width, int(config.width * config.mlp_ratio), config.activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BND: Tensor, *, first_only: bool = False) -> Tensor:
        mixed = self.attention(self.norm_1(x_BND), first_only=first_only)
        x_BND = (x_BND[:, :1] if first_only else x_BND) + self.drop_path(mixed)
        out_BND: Tensor = x_BND + self.drop_path(self.mlp(self.norm_2(x_BND)))
        return out_BND


class VisionTransformer(nn.Module):
    """Pixels to one vector per patch, class token first (BLIP section 3.1)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.side = config.size // config.patch
        match config.stem:
            case "patch":
                self.stem: nn.Module = PatchStem(3, config.width, config.patch, stride=config.patch)
            case "conv":
                self.stem = ConvStem(config.patch, config.width)
            case _:
                assert_never(config.stem)
        self.cls = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        match config.positions:
            case "learned":
                self.positions: Tensor = nn.Parameter(torch.randn(1, 1 + self.side**2, config.width) * 0.02)
            case "sincos2d":
                grid = sincos_2d(self.side, config.width)
                self.register_buffer("positions", torch.cat([torch.zeros(1, config.width), grid])[None], persistent=False)
            case _:
                assert_never(config.positions)
        growth = config.drop_path / max(1, config.layers - 1)
        self.blocks = nn.ModuleList(VisionBlock(config, growth * i) for i in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.norm_eps)

    def positions_for(self, side: int) -> Tensor:
        """[1, 1 + side * side, D]: learned positions are interpolated (bicubic) to another grid, sine ones computed."""
        if side == self.side:
            return self.positions
        if self.config.positions == "sincos2d":
            grid = sincos_2d(side, self.config.width)[None].to(self.positions)
            return torch.cat([self.positions[:, :1], grid], dim=1)
        return interpolated(self.positions, side)

    def forward(self, pixels_BCHW: Tensor, *, first_only: bool = False) -> Tensor:
        """[B, N, D], after the final norm; [B, 1, D] (the class token alone, cheaper) with `first_only`."""
        grid_BDHW = self.stem(pixels_BCHW)
        x_BND = torch.cat([self.cls.expand(len(grid_BDHW), -1, -1), grid_BDHW.flatten(2).transpose(1, 2)], dim=1)
        x_BND = x_BND + self.positions_for(grid_BDHW.shape[-1])
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            x_BND = block(x_BND, first_only=first_only and i == last)
        out_BND: Tensor = self.norm(x_BND)
        return out_BND
