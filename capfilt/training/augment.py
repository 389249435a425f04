"""BLIP's training pictures: a random crop, mirroring, and two random changes that leave the colours true.

A pure function of the picture and of the random numbers it is given. After salesforce/BLIP: RandomResizedCrop, a horizontal flip
and RandomAugment(2, 5) over ten operations. Colour, contrast, posterising, solarising and inversion are not among them: a text
may name a colour.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageOps

OPERATIONS_PER_PICTURE = 2
CHANCE = 0.5  # that a drawn operation is applied
SHEAR = 0.15  # magnitude 5 of 10, at most 0.3
SHIFT_PX = 5.0  # at most 10, whatever the picture's size
ANGLE = 15.0  # degrees, at most 30
GREY = (128, 128, 128)
RATIOS = (3 / 4, 4 / 3)  # of a crop's sides
CROP_TRIES = 10

Picture = Image.Image


def augment(picture: Picture, size: int, min_scale: float, chance: np.random.Generator) -> Picture:
    """An RGB square of `size` pixels.

    Args:
        min_scale: Smallest share of the picture's area that a crop keeps: BLIP pre-trains with 0.2 and fine-tunes with 0.5.
        chance: All random numbers come from it.
    """
    rgb = picture if picture.mode == "RGB" else picture.convert("RGB")
    square = rgb.resize((size, size), Image.Resampling.BICUBIC, box=_crop(rgb.width, rgb.height, min_scale, chance))
    if chance.random() < 0.5:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name in chance.choice(len(OPERATIONS), OPERATIONS_PER_PICTURE).tolist():
        if chance.random() <= CHANCE:
            square = OPERATIONS[name](square, -1.0 if chance.random() > 0.5 else 1.0)
    return square


def _crop(width: int, height: int, min_scale: float, chance: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right, bottom: area and ratio drawn until they fit; else the largest centred crop of a ratio that may be."""
    for _ in range(CROP_TRIES):
        area = width * height * chance.uniform(min_scale, 1.0)
        ratio = math.exp(chance.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(chance.integers(width - w + 1)), int(chance.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _affine(picture: Picture, *matrix: float) -> Picture:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


def _same(picture: Picture, sign: float) -> Picture:
    return picture


# At magnitude 5 of 10 the factor of BLIP's Brightness and Sharpness, 0.1 + 1.8 * 5 / 10, is 1: they change nothing. They stand
# here because each takes its share of the draws.
OPERATIONS: tuple[Callable[[Picture, float], Picture], ...] = (
    _same,  # Identity
    lambda picture, _: ImageOps.autocontrast(picture),
    _same,  # Brightness
    _same,  # Sharpness
    lambda picture, _: ImageOps.equalize(picture),
    lambda picture, sign: _affine(picture, 1, sign * SHEAR, 0, 0, 1, 0),
    lambda picture, sign: _affine(picture, 1, 0, 0, sign * SHEAR, 1, 0),
    lambda picture, sign: _affine(picture, 1, 0, sign * SHIFT_PX, 0, 1, 0),
    lambda picture, sign: _affine(picture, 1, 0, 0, 0, 1, sign * SHIFT_PX),
    lambda picture, sign: picture.rotate(sign * ANGLE, Image.Resampling.BILINEAR, fillcolor=GREY),
)
