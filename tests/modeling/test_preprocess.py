import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from capfilt.config.architectures.med import MedArchitecture
from capfilt.modeling.preprocess import normalise, preprocess, to_uint8


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_pictures_of_any_shape_become_the_square_by_bicubic_resizing() -> None:
    images = [picture(40, 30), picture(9, 50, 1), picture(16, 16, 2)]
    found = to_uint8(images, 16)
    assert (found.shape, found.dtype) == ((3, 3, 16, 16), torch.uint8)
    for pixels, image in zip(found, images, strict=True):
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
        assert np.array_equal(pixels.numpy(), expected)


def test_normalised_pixels_equal_the_definition_in_float64(architecture: MedArchitecture) -> None:
    pixels = to_uint8([picture(16, 16)], 16)
    mean, std = np.array(architecture.image_mean), np.array(architecture.image_std)
    expected = (pixels.numpy().transpose(0, 2, 3, 1) / 255 - mean) / std
    np.testing.assert_allclose(normalise(pixels, architecture).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def test_preprocess_gives_the_size_of_the_architecture(architecture: MedArchitecture) -> None:
    found = preprocess([picture(50, 20), picture(16, 16).convert("L")], architecture)
    assert (found.shape, found.dtype) == ((2, 3, 16, 16), torch.float32)


@pytest.mark.parametrize("size", [(40, 30), (200, 120), (9, 50), (16, 16)])
def test_fast_pixels_are_close_to_exact_ones_and_not_the_same(size: tuple[int, int]) -> None:
    smooth = Image.fromarray((np.indices((size[1], size[0])).sum(0)[..., None] * [1, 2, 3] % 200).astype(np.uint8))
    smooth = smooth.filter(ImageFilter.GaussianBlur(2))
    exact, fast = to_uint8([smooth], 16).int(), to_uint8([smooth], 16, how="fast").int()
    assert fast.shape == exact.shape
    difference = (fast - exact).abs().float().mean()
    assert difference < 12
    assert (difference > 0) == (size != (16, 16))


def test_a_far_reduction_averages_all_pixels() -> None:
    checks = np.zeros((256, 256, 3), dtype=np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 200
    found = to_uint8([Image.fromarray(checks)], 16, how="fast").float()
    assert (found - 100).abs().max() < 2, "bilinear would pick black or white points"
