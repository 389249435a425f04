"""Bytes to an upright RGB picture, within a pixel limit that is checked on the container. See `capfilt.images`."""

import io
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from capfilt.images.containers import Container, ImageError, read_container

# Pillow warns of big pictures and odd EXIF; both are dealt with here. (`catch_warnings` is not for threads.)
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Picture:
    """A decoded picture. `width` and `height` are of the full picture, upright; `image` may be a reduced RGB decode of it."""

    image: Image.Image
    width: int
    height: int


def decode(data: bytes, *, max_pixels: int, shorter_side: int | None = None) -> Picture:
    """An upright RGB picture; what becomes of each kind of picture is told in `capfilt.images`.

    With `shorter_side`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, at least twice those pixels on its shorter side.

    Raises:
        ImageError: One of `Code`; `too_many_pixels` is found out from the container, before anything is decoded.
    """
    container, image, orientation = _known(data, max_pixels)
    width, height = image.size
    if isinstance(image, JpegImageFile):
        image.decodermaxblock = len(container.data)  # in one go, not 64 KiB at a time
        if shorter_side is not None:
            # A box around twice that side on the shorter axis; Pillow takes the smallest scale that still covers it.
            scale = min(1.0, 2 * shorter_side / min(width, height))
            image.draft(None, (max(1, round(width * scale)), max(1, round(height * scale))))
    _load(image, container)
    rgb = as_rgb(image)
    turn = _TURNS.get(orientation)
    if turn is None:
        return Picture(rgb, width, height)
    upright = rgb.transpose(turn)
    return Picture(upright, height, width) if orientation >= 5 else Picture(upright, width, height)


def decode_plain_jpeg(data: bytes, *, max_pixels: int, shorter_side: int) -> np.ndarray[Any, Any] | None:
    """Pixels [H, W, 3] in OpenCV's order, blue first, of an upright, undamaged JPEG that `decode` would decode at full size; the
    same pixels in three quarters of the time. None for any other picture.

    Raises:
        ImageError: As `decode`.
    """
    container, image, orientation = _known(data, max_pixels)
    is_plain = container.format == "JPEG" and image.mode in ("RGB", "L") and orientation == 1
    if not is_plain or min(image.size) >= 4 * shorter_side:
        return None
    try:
        bgr: np.ndarray[Any, Any] = simplejpeg.decode_jpeg(container.data, colorspace="BGR")
    except ValueError:  # libjpeg has something to say; Pillow decides whether it is a picture
        return None
    return bgr


def decode_rgb(data: bytes, *, covering: int | None = None) -> Image.Image:
    """An RGB picture from bytes that capfilt itself wrote or that the user hands over, at full size.

    With `covering`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, at least that many pixels on its shorter side.

    Raises:
        ImageError: As `decode`, with a limit of 250 million pixels.
    """
    half = None if covering is None else -(-covering // 2)  # `decode` keeps twice what it is told
    return decode(data, max_pixels=250_000_000, shorter_side=half).image


def _known(data: bytes, max_pixels: int) -> tuple[Container, Image.Image, int]:
    """Container, opened but not decoded picture and its orientation, within the limit."""
    container = read_container(data)
    if container.width * container.height > max_pixels:
        raise ImageError("too_many_pixels")
    image = _opened(container)
    return container, image, _orientation(image)


def _opened(container: Container) -> Image.Image:
    stream = io.BytesIO(container.data)
    try:
        # `Image.open` would make a MPO (several pictures in one JPEG) a thing of its own; its first picture is what is wanted.
        image = JpegImageFile(stream) if container.format == "JPEG" else Image.open(stream, formats=[container.format])
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels") from None
    except Exception:
        raise ImageError("truncated" if container.is_short or len(container.data) < 64 else "corrupt") from None
    if image.size != (container.width, container.height):
        raise ImageError("corrupt")  # two readings of one header: what was limited is not what would be decoded
    return image


def _load(image: Image.Image, container: Container) -> None:
    try:
        image.load()
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels") from None
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, EOFError …
        is_short = isinstance(error, EOFError) or re.search(
            r"truncated|end of file|unexpected end|not enough", str(error), re.IGNORECASE
        )
        raise ImageError("truncated" if is_short or container.is_short else "corrupt") from None


_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts them (CIPA DC-008, 4.6.4). Broken EXIF is no orientation: 1."""
    if "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(_ORIENTATION)
    except Exception:  # a stranger's TIFF: nothing about its errors is certain
        return 1
    return found if isinstance(found, int) and found in _TURNS else 1


def as_rgb(image: Image.Image) -> Image.Image:
    """Any mode that the five formats give, as three channels of 8 bits; what is transparent is white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;") or (image.mode == "I" and image.format == "PNG"):
        return _from_sixteen_bits(image)
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        # Adobe writes its ink upside down and marks that; Pillow takes every CMYK JPEG for one of Adobe's.
        image = ImageChops.invert(image)
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not has_alpha:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """16 bits of grey, as I;16 or, in older Pillow, 32-bit I: the upper eight; the one transparent grey is white."""
    grey = np.asarray(image).astype(np.int64).clip(0, 65535)
    transparent = image.info.get("transparency")
    eight = (grey >> 8).astype(np.uint8)
    if isinstance(transparent, int):
        eight[grey == transparent] = 255
    return Image.fromarray(eight).convert("RGB")
