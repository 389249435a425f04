"""Bytes to PIL: the only place that decodes pictures, behind a format and a pixel limit that are checked before any decoder runs.

Knows nothing of tables, networks or models. What becomes of a stranger's picture:

    JPEG, PNG, WebP, GIF, BMP       RGB, 8 bits, upright; MPO is its first picture, progressive or not makes no difference
    EXIF orientation                applied; broken EXIF is none
    grey, 1 bit, palette            three channels
    16 bits                         the upper eight
    CMYK, YCCK                      RGB without a colour profile, Adobe's inverted ink and the plain one
    transparency                    laid on white: alpha channel, transparent palette entries, one transparent colour
    animated GIF, WebP, APNG        the first frame (APNG: its default image); later ones are never decoded
    ICC profiles, comments, text    not read, however big
    too big by its header           `too_many_pixels`, before any decoder sees it
    a million segments, 100 scans   `too_many_parts`: they cost a decoder seconds and say nothing
    cut off                         `truncated`, never half a picture
    other damage                    `corrupt`; what a decoder takes in spite of it is kept
    TIFF, HEIC, AVIF, SVG, …        `unsupported_format:NAME`; anything else `not_an_image`
"""

from typing import get_args

from capfilt.images.containers import Code, Container, Format, ImageError, read_container, sniff
from capfilt.images.decoding import Picture, as_rgb, decode, decode_plain_jpeg, decode_rgb

CODES: tuple[Code, ...] = get_args(Code)

__all__ = [
    "CODES",
    "Code",
    "Container",
    "Format",
    "ImageError",
    "Picture",
    "as_rgb",
    "decode",
    "decode_plain_jpeg",
    "decode_rgb",
    "read_container",
    "sniff",
]
