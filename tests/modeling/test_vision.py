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
