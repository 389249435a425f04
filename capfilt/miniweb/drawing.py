"""Scenes as pictures: `render` draws one, differently at every call but so that a person names every attribute.

Knows nothing of words, files or URLs.
"""

from collections.abc import Iterable
from functools import cache
from math import cos, pi, sin, sqrt
from random import Random

from PIL import Image, ImageDraw

from capfilt.miniweb.scenery import background
from capfilt.miniweb.world import Scene, Thing

RGB = tuple[int, int, int]
Points = list[tuple[float, float]]

COLOURS: dict[str, RGB] = {
    "red": (214, 32, 38),
    "orange": (248, 134, 12),
    "yellow": (250, 226, 40),
    "green": (28, 152, 58),
    "blue": (36, 76, 214),
    "purple": (146, 44, 176),
    "black": (22, 22, 24),
    "white": (248, 248, 246),
}
DIAMETERS = {"small": (0.30, 0.34), "big": (0.52, 0.58)}  # shares of sqrt(width * height)
DIAMETERS_OF_TWO = {"small": (0.27, 0.30), "big": (0.41, 0.44)}
DIAMETERS_INSIDE = {"small": (0.20, 0.23), "big": (0.50, 0.54)}
CENTRES = {"left": (0.26, 0.5), "right": (0.74, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.74), "centre": (0.5, 0.5)}


def render(scene: Scene, *, width: int, height: int, rng: Random) -> Image.Image:
    """An RGB picture of `width` x `height` pixels; shade, place, size and tilt vary within what the words allow."""
    picture = background(scene.background, width, height, rng)
    if scene.relation == "inside":
        ranges, order = DIAMETERS_INSIDE, reversed(scene.things)  # the outer thing first
    else:
        ranges, order = (DIAMETERS if scene.relation is None else DIAMETERS_OF_TWO), iter(scene.things)
    scale = sqrt(width * height)
    for thing in order:
        diameter = min(rng.uniform(*ranges[thing.size]) * scale, 0.9 * min(width, height))
        across, along = (0.0, 0.015) if scene.relation == "inside" else (0.06, 0.02)
        x, y = CENTRES[thing.place]
        jitter_x, jitter_y = (along, across) if thing.place in ("left", "right") else (across, along)
        if thing.place == "centre":
            jitter_x = jitter_y = 0.015 if scene.relation == "inside" else 0.03
        x = _clamp((x + rng.uniform(-jitter_x, jitter_x)) * width, diameter, width)
        y = _clamp((y + rng.uniform(-jitter_y, jitter_y)) * height, diameter, height)
        draw_thing(picture, thing, x, y, diameter, rng)
    return picture


def _clamp(centre: float, diameter: float, side: int) -> float:
    return max(diameter / 2, min(side - diameter / 2, centre))


def draw_thing(picture: Image.Image, thing: Thing, x: float, y: float, diameter: float, rng: Random) -> None:
    """One thing with its centre at x, y, in pixels.

    Draws at twice the size and halves it: smooth edges at a fraction of the cost of a smooth picture.
    """
    base = COLOURS[thing.colour]
    light = rng.uniform(0.9, 1.06)
    colour = _rgb((channel + rng.uniform(-9, 9)) * light for channel in base)
    dark = sum(base) < 120
    edge = (110, 110, 112) if dark else _rgb(channel * 0.55 for channel in base)
    # stripes and dots are tints of the colour: small stars and crosses would fall apart in white, and colours look alike
    has_dark_ink = thing.colour in ("white", "yellow", "orange")
    ink = _rgb(channel * 0.34 if has_dark_ink else 255 - (255 - channel) * (0.15 if dark else 0.36) for channel in base)

    half = int(diameter / 2) + 2  # pixels of the picture
    size = 4 * half  # of the patch: twice as large
    radius = diameter  # of the thing in the patch
    tilt = rng.uniform(-9, 9) * pi / 180
    patch = Image.new("RGB", (size, size), colour)
    mask = Image.new("L", (size, size), 0)
    pen, stencil = ImageDraw.Draw(patch), ImageDraw.Draw(mask)
    if thing.texture == "striped":
        _stripes(pen, size, radius, ink, tilt + rng.choice((0.0, pi / 4)), rng)
    elif thing.texture == "dotted":
        _dots(pen, size, radius, ink, rng)
    outline = max(2, round(radius * 0.07))
    for points, is_hole in _outlines(thing.shape):
        placed = [
            (size / 2 + radius * (px * cos(tilt) - py * sin(tilt)), size / 2 + radius * (px * sin(tilt) + py * cos(tilt)))
            for px, py in points
        ]
        stencil.polygon(placed, fill=0 if is_hole else 255)
        pen.line([*placed, placed[0], placed[1]], fill=edge, width=outline, joint="curve")
    corner = (round(x) - half, round(y) - half)
    picture.paste(patch.reduce(2), corner, mask.reduce(2))


def _stripes(pen: ImageDraw.ImageDraw, size: int, radius: float, ink: RGB, angle: float, rng: Random) -> None:
    period = radius * rng.uniform(0.52, 0.6)
    shift = rng.uniform(0, period)
    for k in range(-4, 5):
        offset = k * period + shift
        middle = (size / 2 - offset * sin(angle), size / 2 + offset * cos(angle))
        reach = (size * cos(angle), size * sin(angle))
        ends = [(middle[0] - reach[0], middle[1] - reach[1]), (middle[0] + reach[0], middle[1] + reach[1])]
        pen.line(ends, fill=ink, width=round(period * 0.4))


def _dots(pen: ImageDraw.ImageDraw, size: int, radius: float, ink: RGB, rng: Random) -> None:
    step = radius * 0.55
    dot = step * 0.27
    shift_x, shift_y = rng.uniform(0, step), rng.uniform(0, step)
    for row in range(-4, 5):
        for column in range(-4, 5):
            x = size / 2 + (column + 0.5 * (row % 2)) * step + shift_x
            y = size / 2 + row * step * 0.85 + shift_y
            pen.ellipse((x - dot, y - dot, x + dot, y + dot), fill=ink)


def _rgb(channels: Iterable[float]) -> RGB:
    red, green, blue = (max(0, min(255, round(channel))) for channel in channels)
    return red, green, blue


@cache
def _outlines(shape: str) -> tuple[tuple[Points, bool], ...]:
    """Polygons around the origin (y downwards) in units in which the radius is 1, and whether each is a hole."""
    if shape == "circle":
        return ((_circle(1.0), False),)
    if shape == "square":
        return (([(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)], False),)
    if shape == "bar":
        return (([(-1.1, -0.38), (1.1, -0.38), (1.1, 0.38), (-1.1, 0.38)], False),)
    if shape == "triangle":
        return (([(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)], False),)
    if shape == "star":
        radii = (1.12, 0.46)
        return (([(radii[k % 2] * sin(k * pi / 5), 0.06 - radii[k % 2] * cos(k * pi / 5)) for k in range(10)], False),)
    if shape == "cross":
        a, b = 0.33, 1.0
        arms = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        return ((arms, False),)
    if shape == "ring":
        return ((_circle(1.0), False), (_circle(0.52), True))
    if shape == "heart":
        turns = [k * 2 * pi / 40 for k in range(40)]
        curve = [(16 * sin(t) ** 3, 13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) for t in turns]
        return (([(px / 16.5, -(py + 2.5) / 15) for px, py in curve], False),)
    if shape == "diamond":
        return (([(0.0, -1.05), (0.72, 0.0), (0.0, 1.05), (-0.72, 0.0)], False),)
    if shape == "moon":
        outer = [(cos(t), sin(t)) for t in (pi * (0.25 + 1.5 * k / 30) for k in range(31))]  # open to the right
        tip = sqrt(0.5)
        inner = [(tip - 0.95 * cos(t), tip * sin(t)) for t in (pi * (k / 20 - 0.5) for k in range(1, 20))]
        return (([*outer, *inner], False),)
    raise ValueError(f"expected one of the world's shapes; found {shape!r}; add its outline to drawing.py")


def _circle(radius: float) -> Points:
    return [(radius * cos(k * pi / 20), radius * sin(k * pi / 20)) for k in range(40)]
