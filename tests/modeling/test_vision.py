"""The image encoder's stem."""

import torch

from capfilt.modeling.vision import PatchStem


def test_the_patch_stem_as_a_product_is_the_convolution():
    stem = PatchStem(3, 24, 8, stride=8).double()
    pixels = torch.randn(2, 3, 32, 16, dtype=torch.float64)

    assert torch.allclose(stem.as_product(pixels), stem(pixels), atol=1e-12)


def test_a_patch_stem_without_bias_is_the_convolution_too():
    stem = PatchStem(3, 24, 8, stride=8, bias=False).double()
    pixels = torch.randn(1, 3, 16, 16, dtype=torch.float64)

    assert torch.allclose(stem.as_product(pixels), stem(pixels), atol=1e-12)


def test_a_border_that_fills_no_patch_is_left_out_and_the_gradients_are_the_convolutions():
    stem = PatchStem(3, 24, 8, stride=8).double()
    pixels = torch.randn(2, 3, 31, 18, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()

    wanted = [pixels, stem.weight, stem.bias]
    product, convolved = (torch.autograd.grad(made.square().sum(), wanted) for made in (stem.as_product(pixels), stem(pixels)))

    assert stem.as_product(pixels).shape == stem(pixels).shape
    for mine, expected in zip(product, convolved, strict=True):
        assert torch.allclose(mine, expected, atol=1e-10)
