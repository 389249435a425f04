from collections.abc import Iterator

import pytest
import torch
from torch import nn

from capfilt.config.architectures.soho import ResNetConfig
from capfilt.modeling.soho.resnet import ResNet


def torchvision_names(blocks: tuple[int, ...], block: str) -> Iterator[str]:
    """Of torchvision's and timm's ResNet, written out."""
    yield "conv1.weight"
    for stage, count in enumerate(blocks):
        for i in range(count):
            at = f"layer{stage + 1}.{i}"
            for n in (1, 2, 3) if block == "bottleneck" else (1, 2):
                yield f"{at}.conv{n}.weight"
                yield from (f"{at}.bn{n}.{x}" for x in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))
            if i == 0 and (stage or block == "bottleneck"):
                yield f"{at}.downsample.0.weight"
                yield from (
                    f"{at}.downsample.1.{x}" for x in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
                )
    yield from (f"bn1.{x}" for x in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize(
    ("blocks", "block", "parameters"), [((2, 2, 2, 2), "basic", 11_176_512), ((3, 4, 6, 3), "bottleneck", 23_508_032)]
)
def test_names_and_sizes_are_torchvisions(blocks: tuple[int, ...], block: str, parameters: int) -> None:
    with torch.device("meta"):
        trunk = ResNet(ResNetConfig.model_validate({"size": 64, "blocks": blocks, "block": block}))
    assert set(trunk.state_dict()) == set(torchvision_names(blocks, block))
    assert sum(parameter.numel() for parameter in trunk.parameters()) == parameters


@pytest.mark.parametrize(("stem", "blocks", "stride"), [("imagenet", (1, 1, 1, 1), 32), ("small", (1, 1), 4), ("small", (1,), 2)])
def test_the_stride_is_the_configs(stem: str, blocks: tuple[int, ...], stride: int) -> None:
    config = ResNetConfig.model_validate({"size": 128, "stem": stem, "blocks": blocks, "width": 8})
    assert config.stride == stride
    out = ResNet(config).eval()(torch.randn(2, 3, 128, 192))
    assert out.shape == (2, config.out_width, 128 // stride, 192 // stride)


def test_a_frozen_trunk_is_a_fixed_function_and_learns_again_afterwards() -> None:
    trunk = ResNet(ResNetConfig(size=32, stem="small", blocks=(1, 1), width=8)).train()
    pixels = torch.randn(4, 3, 32, 32)
    trunk.freeze(True)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    out = trunk(pixels)
    assert not out.requires_grad
    trunk.train()  # as the loop does
    torch.testing.assert_close(trunk(pixels), out)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items())
    trunk.freeze(False)
    assert trunk.training
    assert trunk(pixels).requires_grad
    assert not torch.equal(trunk.bn1.running_mean, before["bn1.running_mean"])
    trunk.eval()
    trunk.freeze(True)
    trunk.freeze(False)
    assert not trunk.training


@pytest.mark.parametrize("frozen", [-1, 0, 1, 2])
def test_frozen_stages_take_no_gradient_and_keep_their_norms(frozen: int) -> None:
    trunk = ResNet(ResNetConfig(size=32, stem="small", blocks=(1, 1), width=8, frozen_stages=frozen)).train()
    kept = [*(["conv1", "bn1"] if frozen >= 0 else []), *(f"layer{i + 1}" for i in range(frozen))]
    for name, parameter in trunk.named_parameters():
        assert parameter.requires_grad != name.startswith(tuple(kept) if kept else ("none",)), name
    for name, part in trunk.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.training != name.startswith(tuple(kept) if kept else ("none",)), name


def test_eight_channels_go_backwards_on_the_cpu() -> None:
    """Channels last would end the process here (torch 2.13)."""
    trunk = ResNet(ResNetConfig(size=192, width=8)).train()
    trunk(torch.randn(2, 3, 192, 192).contiguous(memory_format=torch.channels_last)).square().mean().backward()
    assert trunk.conv1.weight.grad is not None


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of 64"):
        ResNetConfig(size=96)
    with pytest.raises(ValueError, match="frozen_stages 3 is above the 2"):
        ResNetConfig(size=64, blocks=(1, 1), frozen_stages=3)
