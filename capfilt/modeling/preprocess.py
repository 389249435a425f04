"""From RGB pictures to what the image encoder takes.

Knows nothing of bytes or files; one half makes small uint8 arrays on the CPU, the other normalises them where the network is.

Axes at the end of tensor names: B images, C channels, H and W pixels.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from capfilt.config.architectures import Architecture, image_side
from capfilt.config.round import Pixels

UInt8Array = npt.NDArray[np.uint8]


def to_uint8(images: Sequence[Image.Image], size: int, *, how: Pixels = "exact") -> Tensor:
    """uint8 [B, 3, size, size]: resized to the square without a crop.

    exact: bicubic with antialiasing, as BLIP's evaluation does. fast: bilinear down to half a side, means of areas below that.
    """
    pixels_BHWC = np.empty((len(images), size, size, 3), dtype=np.uint8)
    for pixels_HWC, image in zip(pixels_BHWC, images, strict=True):
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        if rgb.size == (size, size):
            pixels_HWC[:] = np.asarray(rgb)
        elif how == "exact":
            pixels_HWC[:] = np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC))
        else:
            pixels_HWC[:] = _resized_fast(np.asarray(rgb), size)
    return torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).contiguous()


def _resized_fast(pixels_HWC: UInt8Array, size: int) -> UInt8Array:
    import cv2

    is_far = max(pixels_HWC.shape[:2]) > 2 * size  # bilinear would step over pixels
    resized: UInt8Array = cv2.resize(pixels_HWC, (size, size), interpolation=cv2.INTER_AREA if is_far else cv2.INTER_LINEAR)
    return resized


def normalise(pixels_BCHW: Tensor, architecture: Architecture) -> Tensor:
    """float32 of uint8 pixels: scaled to 0..1, mean subtracted, divided by the deviation; stays on its device."""
    mean_C11 = torch.tensor(architecture.image_mean, device=pixels_BCHW.device)[:, None, None]
    std_C11 = torch.tensor(architecture.image_std, device=pixels_BCHW.device)[:, None, None]
    return (pixels_BCHW.float() / 255 - mean_C11) / std_C11


def preprocess(images: Sequence[Image.Image], architecture: Architecture) -> Tensor:
    """float32 [B, 3, S, S], ready for `encode_image`."""
    return normalise(to_uint8(images, image_side(architecture)), architecture)
