"""Bytes to PIL: the only place that decodes pictures, behind a format and a pixel limit checked on the header.

Knows nothing of tables, networks or models. Formats are JPEG, PNG, WEBP, GIF and BMP; everything else is refused by its first
bytes, so that no SVG, archive, PostScript or TIFF decoder ever sees what a stranger sent.
"""

import io
import re
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

# Pillow warns of big pictures and odd EXIF; both are dealt with here. (`catch_warnings` is not for threads.)
warnings.filterwarnings("ignore", module=r"PIL\.")

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP"]
Code = Literal["not_an_image", "unsupported_format", "too_many_pixels", "truncated", "corrupt", "resize_failed"]

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
_UNSUPPORTED: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"II\*\x00|MM\x00\*"), "tiff"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "avif"),
    (re.compile(rb"....ftyp(hei|mif1|msf1)", re.DOTALL), "heic"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "jxl"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "jpeg2000"),
    (re.compile(rb"8BPS"), "psd"),
    (re.compile(rb"\x00\x00\x01\x00"), "ico"),
    (re.compile(rb"%!PS|%PDF"), "postscript"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|BZh|\xfd7zXZ"), "archive"),
    (re.compile(rb"\s*(<\?xml.{0,1000}?)?(<!DOCTYPE svg.{0,1000}?)?<svg", re.DOTALL | re.IGNORECASE), "svg"),
)


class ImageError(Exception):
    """Bytes that do not become a picture. `str(error)` is `code`, or `code:detail` with a detail from a closed list."""

    def __init__(self, code: Code, detail: str | None = None) -> None:
        super().__init__(code if detail is None else f"{code}:{detail}")
        self.code = code


@dataclass(frozen=True)
class Picture:
    """A decoded picture. `width` and `height` are of the full picture, upright; `image` may be a reduced RGB decode of it."""

    image: Image.Image
    width: int
    height: int


def sniff(data: bytes) -> Format:
    """The format that the first bytes show; the name and the content type of a file are not believed.

    Raises:
        ImageError: `not_an_image`, or `unsupported_format:NAME`.
    """
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    # "BM" alone is two letters of text; the header's size field must be one that exists.
    if data[:2] == b"BM" and data[14:18] in (
        b"\x0c\0\0\0",
        b"\x28\0\0\0",
        b"\x34\0\0\0",
        b"\x38\0\0\0",
        b"\x6c\0\0\0",
        b"\x7c\0\0\0",
    ):
        return "BMP"
    for pattern, kind in _UNSUPPORTED:
        if pattern.match(data[:4096]):
            raise ImageError("unsupported_format", kind)
    raise ImageError("not_an_image")


def decode(data: bytes, *, max_pixels: int, shorter_side: int | None = None) -> Picture:
    """An upright RGB picture: EXIF orientation applied, transparency on white, first frame of an animation, 16 bits cut to 8.

    With `shorter_side`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, at least twice those pixels on its shorter side.

    Raises:
        ImageError: One of `Code`; `too_many_pixels` is found out from the header, before anything is decoded.
    """
    name = sniff(data)
    image = _opened(data, name)
    if image.width * image.height > max_pixels:
        raise ImageError("too_many_pixels")
    width, height = image.size
    turned = _is_turned(image)
    if name == "JPEG" and shorter_side is not None:
        side = 2 * shorter_side
        # A box around `side` on the shorter axis; Pillow takes the smallest scale that still covers it.
        scale = min(1.0, side / min(width, height))
        image.draft(None, (max(1, round(width * scale)), max(1, round(height * scale))))
    rgb = _rgb(_upright(_loaded(image)))
    return Picture(rgb, height, width) if turned else Picture(rgb, width, height)


def decode_rgb(data: bytes) -> Image.Image:
    """An RGB picture from bytes that capfilt itself wrote or that the user hands over, at full size.

    Raises:
        ImageError: As `decode`, with a limit of 250 million pixels.
    """
    return decode(data, max_pixels=250_000_000).image


def _opened(data: bytes, name: Format) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=[name])
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels") from None
    except Exception:
        raise ImageError("truncated" if len(data) < 64 else "corrupt") from None


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels") from None
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, EOFError …
        is_short = isinstance(error, EOFError) or re.search(
            r"truncated|end of file|unexpected end|not enough", str(error), re.IGNORECASE
        )
        raise ImageError("truncated" if is_short else "corrupt") from None
    return image


_ORIENTATION = 0x0112


def _is_turned(image: Image.Image) -> bool:
    """True where the EXIF orientation exchanges width and height. Broken EXIF is no orientation."""
    try:
        return image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except Exception:
        return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(_ORIENTATION, 1) == 1:
            return image
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF is a stranger's TIFF: nothing about its errors is certain
        return image


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode that the five formats give, as three channels of 8 bits."""
    if image.mode.startswith("I"):  # 16 bits of grey, as I;16 or, in older Pillow, 32-bit I
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    has_alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if not has_alpha:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


CODES: tuple[Code, ...] = get_args(Code)
