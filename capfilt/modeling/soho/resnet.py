"""A ResNet as an image encoder's trunk: the last stage's features, without pooling and classifier (arXiv:1512.03385).

Its tensors have torchvision's and timm's names, so that ImageNet weights load. Knows nothing of texts.

Axes at the end of tensor names: B images, C channels, H and W pixels.
"""

from collections.abc import Iterator
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capfilt.config.architectures.soho import ResNetConfig


def _convolution(before: int, out: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, out, side, stride=stride, padding=side // 2, bias=False)


class _Block(nn.Module):
    """Convolutions with batch norm around a shortcut; the norm before the sum starts at zero, so that a fresh block is one."""

    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    conv2: nn.Conv2d
    bn2: nn.BatchNorm2d

    def __init__(self, before: int, out: int, stride: int) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or before != out:
            self.downsample = nn.Sequential(_convolution(before, out, 1, stride), nn.BatchNorm2d(out))

    def branch(self, x_BCHW: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut_BCHW = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        return F.relu(self.branch(x_BCHW) + shortcut_BCHW)


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__(before, width, stride)
        self.conv1, self.bn1 = _convolution(before, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3), nn.BatchNorm2d(width)
        nn.init.zeros_(self.bn2.weight)

    def branch(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x_BCHW)))))
        return out_BCHW


class Bottleneck(_Block):
    """1x1, 3x3 (which has the stride, as in torchvision), 1x1."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__(before, 4 * width, stride)
        self.conv1, self.bn1 = _convolution(before, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _convolution(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        nn.init.zeros_(self.bn3.weight)

    def branch(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        out_BCHW: Tensor = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x_BCHW)))))
        return out_BCHW


class ResNet(nn.Module):
    """Pixels to the features of the last stage.

    `config.frozen_stages` never learn, and their norms stay in evaluation mode. `freeze` does the same to all of it for a while.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.is_frozen = False
        self._is_asked_to_train = True
        side = 7 if config.stem == "imagenet" else 3
        self.conv1, self.bn1 = _convolution(3, config.width, side, 2), nn.BatchNorm2d(config.width)
        block = BasicBlock if config.block == "basic" else Bottleneck
        before = config.width
        for stage, count in enumerate(config.blocks):
            width = config.width << stage
            blocks: list[nn.Module] = []
            for i in range(count):
                blocks.append(block(before, width, 2 if stage and not i else 1))
                before = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        for parameter in chain.from_iterable(part.parameters() for part in self._never_learning()):
            parameter.requires_grad = False

    def freeze(self, is_frozen: bool) -> None:
        """Whether the trunk is a fixed function: no gradients, and norms by their running statistics, which stay."""
        if is_frozen != self.is_frozen:
            self.is_frozen = is_frozen
            self.train(self._is_asked_to_train)

    def train(self, mode: bool = True) -> "ResNet":
        self._is_asked_to_train = mode
        super().train(mode and not self.is_frozen)
        for part in self._never_learning():
            part.eval()
        return self

    def _never_learning(self) -> Iterator[nn.Module]:
        if self.config.frozen_stages >= 0:
            yield from (self.conv1, self.bn1)
        for stage in range(self.config.frozen_stages):
            yield self.get_submodule(f"layer{stage + 1}")

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """[B, C, H / stride, W / stride]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            # Never channels last: backwards through a strided 1x1 convolution of 8 channels then kills torch 2.13 on the CPU.
            x_BCHW = F.relu(self.bn1(self.conv1(pixels_BCHW.contiguous())))
            if self.config.stem == "imagenet":
                x_BCHW = F.max_pool2d(x_BCHW, 3, stride=2, padding=1)
            for stage in range(len(self.config.blocks)):
                x_BCHW = self.get_submodule(f"layer{stage + 1}")(x_BCHW)
            return x_BCHW
