"""Backgrounds: a random part of a texture, named as `world` names them.

Knows nothing of what stands in front.
"""

from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TEXTURE_PX = 512

Floats = NDArray[np.float64]


def background(name: str, width: int, height: int, rng: Random) -> Image.Image:
    """A random part of the background's texture, slightly lighter or darker and shifted in hue."""
    zoom = rng.uniform(0.5, 0.95) * TEXTURE_PX / max(width, height)
    span_x, span_y = width * zoom, height * zoom
    left, top = rng.uniform(0, TEXTURE_PX - span_x), rng.uniform(0, TEXTURE_PX - span_y)
    part = _texture(name).resize((width, height), Image.Resampling.BILINEAR, box=(left, top, left + span_x, top + span_y))
    light = rng.uniform(0.9, 1.08)
    table = []
    for _ in range(3):
        shift = rng.uniform(-8, 8)
        table += [max(0, min(255, round(value * light + shift))) for value in range(256)]
    return part.point(table)


@cache
def _texture(name: str) -> Image.Image:
    """A square of TEXTURE_PX pixels; the same in every process."""
    chance = np.random.default_rng([5, *name.encode()])
    rows, columns = np.mgrid[0:TEXTURE_PX, 0:TEXTURE_PX].astype(np.float64)

    def noise(cell_x: int, cell_y: int) -> Floats:
        """Smooth noise in -1 .. 1 with cells of the given size in pixels."""
        coarse = chance.uniform(-1, 1, (TEXTURE_PX // cell_y + 2, TEXTURE_PX // cell_x + 2)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((TEXTURE_PX, TEXTURE_PX), Image.Resampling.BICUBIC)
        return np.asarray(smooth, np.float64)

    match name:
        case "grass":
            base, lighter = (112, 172, 76), 24 * noise(5, 26) + 18 * noise(3, 12) + 10 * noise(60, 60)
        case "sky":
            clouds = np.clip(noise(110, 50) + 0.5 * noise(50, 24), 0, 1)
            base, lighter = (132, 190, 238), 34 * rows / TEXTURE_PX + 38 * clouds
        case "sand":
            ripples = np.sin(rows / 9 + 3 * noise(90, 40))
            base, lighter = (222, 192, 142), 11 * noise(3, 3) + 9 * ripples + 6 * noise(60, 60)
        case "bricks":
            is_mortar = (rows % 36 < 5) | ((columns + 36 * (rows // 36 % 2)) % 72 < 5)
            base, lighter = (138, 136, 140), np.where(is_mortar, 52, 10 * noise(36, 36) + 6 * noise(4, 4))
        case "night":
            stars = chance.random((TEXTURE_PX, TEXTURE_PX)) < 0.0012
            glow = np.logical_or.reduce([np.roll(stars, (dy, dx), (0, 1)) for dy in (0, 1, 2) for dx in (0, 1, 2)])
            base, lighter = (26, 30, 66), np.where(glow, 170, 8 * noise(80, 80))
        case "water":
            waves = np.sin(rows / 10 + 2.5 * np.sin(columns / 34) + noise(60, 60))
            base, lighter = (58, 148, 168), 26 * waves + 6 * noise(6, 6)
        case "wood":
            grain = 12 * np.sin(columns / 4 + 2 * noise(30, 150)) + 8 * (columns // 64 * 37 % 3 - 1)
            base, lighter = (150, 104, 66), np.where(columns % 64 < 4, -60, grain)
        case "paper":
            base, lighter = (240, 238, 232), np.where((rows % 40 < 3) | (columns % 40 < 3), -52, 3 * noise(5, 5))
        case _:
            raise ValueError(f"expected one of the world's backgrounds; found {name!r}; add its texture to scenery.py")
    pixels = np.asarray(base, np.float64) + lighter[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")
