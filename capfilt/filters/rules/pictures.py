"""Image rules: which one rejects a row, by its carried values, by the size of its picture as served, or by the stored pixels.

Decodes the stored picture at most once, and only where a rule on pixels is reached. Texts are not its business.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from capfilt.config.screen import Blur, Bytes, ColumnRule, ImageRule, MaxAspect, MinSide, OneColour
from capfilt.filters.rules.columns import column_check
from capfilt.images import decode_rgb

PIXELS_LONGER_SIDE = 256
"""Pixel rules look at the picture at this size (never enlarged), so that one limit fits pictures of all sizes."""

UInt8Array = npt.NDArray[np.uint8]


class ScreenedRow:
    """What image rules may look at. `width` and `height` are pixels as served; None is unknown. `image` are the stored bytes."""

    def __init__(self, width: int | None, height: int | None, image: bytes | None, upstream: Mapping[str, Any]) -> None:
        self.width, self.height, self.image, self.upstream = width, height, image, upstream

    @cached_property
    def small(self) -> UInt8Array | None:
        """uint8 RGB [height, width, 3] with a longer side of at most PIXELS_LONGER_SIDE; None where no picture is stored.

        Raises:
            ImageError: If the stored bytes do not decode.
        """
        return None if self.image is None else shrink(np.asarray(decode_rgb(self.image)))


Check = Callable[[ScreenedRow], str | None]
"""The name a rule rejects the row by; None where it lets it pass."""


class ImageRules:
    """The rules of `screen.image`, ready to be asked; safe to call from several threads."""

    def __init__(self, rules: Sequence[ImageRule]) -> None:
        self._checks = [_check(rule) for rule in rules]
        self.needs_image = any(isinstance(rule, Bytes | Blur | OneColour) for rule in rules)

    def judge(self, row: ScreenedRow) -> str | None:
        """Name of the first rule that rejects the row; None where all let it pass.

        Raises:
            ImageError: If a rule on pixels is reached and the stored bytes do not decode.
        """
        return next((name for check in self._checks if (name := check(row)) is not None), None)


def _check(rule: ImageRule) -> Check:
    match rule:
        case MinSide(px=px):
            return _named(rule.kind, lambda row: bool(row.width and row.height and min(row.width, row.height) < px))
        case MaxAspect(ratio=ratio):
            return _named(rule.kind, lambda row: is_elongated(row.width, row.height, ratio))
        case Bytes(min=least, max=most):
            return _named(
                rule.kind,
                lambda row: row.image is not None and (len(row.image) < least or (most is not None and len(row.image) > most)),
            )
        case Blur(min_variance=least_variance):
            return _named(rule.kind, lambda row: row.small is not None and sharpness(row.small) < least_variance)
        case OneColour(max_share=most_share):
            return _named(rule.kind, lambda row: row.small is not None and share_of_one_colour(row.small) > most_share)
        case _:
            return _of_column(rule)


def _of_column(rule: ColumnRule) -> Check:
    rejects = column_check(rule)
    return _named(f"{rule.kind}:{rule.column}", lambda row: rejects(row.upstream.get(rule.column)))


def _named(name: str, rejects: Callable[[ScreenedRow], bool]) -> Check:
    return lambda row: name if rejects(row) else None


def is_elongated(width: int | None, height: int | None, ratio: float) -> bool:
    """True where the longer side is more than `ratio` times the shorter one."""
    if not width or not height:
        return False
    return max(width, height) > ratio * min(width, height)


def shrink(rgb: UInt8Array) -> UInt8Array:
    """`rgb` with its longer side at PIXELS_LONGER_SIDE, each new pixel the mean of those it covers; a smaller one as it is."""
    import cv2

    height, width = rgb.shape[:2]
    scale = PIXELS_LONGER_SIDE / max(height, width)
    if scale >= 1:
        return rgb
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small: UInt8Array = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return small


def sharpness(rgb: UInt8Array) -> float:
    """Variance of the Laplacian of the grey picture; higher is sharper. docs/screen.md has values of real photographs."""
    import cv2

    return float(cv2.Laplacian(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


_TOLERANCE = 12
"""Levels of 256 by which a pixel may differ from the commonest colour in each channel: JPEG noise around a flat field."""


def share_of_one_colour(rgb: UInt8Array) -> float:
    """Share of the pixels that have the commonest colour, up to JPEG noise; in (0, 1]."""
    import cv2

    coarse = (rgb >> 4).astype(np.uint16)
    bins = (coarse[..., 0] << 8) | (coarse[..., 1] << 4) | coarse[..., 2]
    colour = rgb[bins == np.bincount(bins.ravel(), minlength=4096).argmax()].mean(axis=0)
    alike = cv2.inRange(rgb, np.maximum(colour - _TOLERANCE, 0), np.minimum(colour + _TOLERANCE, 255))
    return float(cv2.countNonZero(alike) / alike.size)
