"""What a picture's container says before anything is decoded: format, size, and the bytes that decoding needs.

Formats are JPEG, PNG, WEBP, GIF and BMP; everything else is refused by its first bytes, so that no SVG, archive, PostScript,
TIFF, HEIC or AVIF decoder ever sees what a stranger sent. Profiles, comments, thumbnails and the later frames of an animation are
cut away unread: a decoder meets no compressed text, no list of a million parts and no picture of unknown size.

Knows nothing of pixels.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, assert_never

Format = Literal["JPEG", "PNG", "WEBP", "GIF", "BMP"]
Code = Literal[
    "not_an_image",
    "unsupported_format",
    "too_many_pixels",
    "too_many_parts",
    "truncated",
    "corrupt",
    "resize_failed",
    "bad_boxes",
]

MAX_PARTS = 131_072
"""Segments, chunks or blocks of one file. A decoder takes microseconds for each, whatever is in it."""
MAX_SCANS = 100
"""Of a progressive JPEG; encoders write ten or so. Each is a pass over all pixels, however few bytes it has."""

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)
_UNSUPPORTED: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"II[*+]\x00|MM\x00[*+]"), "tiff"),
    (re.compile(rb"....ftyp(avif|avis)", re.DOTALL), "avif"),
    (re.compile(rb"....ftyp(hei|hev|mif1|msf1|miaf)", re.DOTALL), "heic"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "jxl"),
    (re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"), "jpeg2000"),
    (re.compile(rb"8BPS"), "psd"),
    (re.compile(rb"\x00\x00[\x01\x02]\x00"), "ico"),
    (re.compile(rb"%!PS|%PDF"), "postscript"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"), "archive"),
    (
        re.compile(rb"\s*(<\?xml.{0,999}?)?(<!--.{0,999}?-->\s*)?(<!DOCTYPE svg.{0,999}?)?<svg", re.DOTALL | re.IGNORECASE),
        "svg",
    ),
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


class ImageError(Exception):
    """Bytes that do not become a picture. `str(error)` is `code`, or `code:detail` with a detail from a closed list."""

    def __init__(self, code: Code, detail: str | None = None) -> None:
        super().__init__(code if detail is None else f"{code}:{detail}")
        self.code = code


@dataclass(frozen=True)
class Container:
    """`data` is what a decoder needs of the file; `is_short` where the file ends before its container does."""

    format: Format
    width: int
    height: int
    data: bytes
    is_short: bool = False


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
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    for pattern, kind in _UNSUPPORTED:
        if pattern.match(data[:4096]):
            raise ImageError("unsupported_format", kind)
    raise ImageError("not_an_image")


def read_container(data: bytes) -> Container:
    """The container of a picture in one of the five formats.

    Raises:
        ImageError: As `sniff`; `truncated` or `corrupt` where no size can be found; `too_many_parts`.
    """
    name = sniff(data)
    try:
        match name:
            case "JPEG":
                found = _jpeg(data)
            case "PNG":
                found = _png(data)
            case "GIF":
                found = _gif(data)
            case "WEBP":
                found = _webp(data)
            case "BMP":
                found = _bmp(data)
            case _ as unreachable:
                assert_never(unreachable)
    except IndexError:  # a read behind the end
        raise ImageError("truncated") from None
    if found.width < 1 or found.height < 1:
        raise ImageError("corrupt")
    return found


class _Cuts:
    """The parts of `data` that stay, and how many parts were met."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._kept: list[bytes] = []
        self._begin = 0
        self._parts = 0

    def part(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ImageError("too_many_parts")

    def drop(self, begin: int, end: int) -> None:
        """Leave out data[begin:end]; parts are dropped in order."""
        if end > begin:
            self._kept.append(self._data[self._begin : begin])
            self._begin = end

    def rest(self, end: int | None = None) -> bytes:
        """What was not dropped, up to `end`."""
        if not self._kept and not self._begin and end is None:
            return self._data
        return b"".join([*self._kept, self._data[self._begin : end]])


def _u16(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]


def _u32(data: bytes, at: int) -> int:
    return _u16(data, at) << 16 | _u16(data, at + 2)


# ── JPEG ────────────────────────────────────────────────────────────────────────────────────────────────────

_MARKER = re.compile(rb"[^\xff]*\xff+", re.DOTALL)  # junk and fill bytes before a marker are allowed
_AFTER_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_BARE = {0x00, 0x01, *range(0xD0, 0xD9)}  # markers without a length
_EXIF, _ADOBE, _JFIF = b"Exif\0\0", b"Adobe", b"JFIF\0"


def _jpeg(data: bytes) -> Container:
    """Kept of the metadata: JFIF and Adobe (they say what the channels are) and the first EXIF (it holds the orientation)."""
    cuts = _Cuts(data)
    at = 2
    size: tuple[int, int] | None = None
    frame = channels = 0
    has_exif = False
    while True:
        cuts.part()
        found = _MARKER.match(data, at)
        if found is None:
            raise ImageError("truncated")
        begin, at = found.end() - 1, found.end()
        cuts.drop(found.start(), begin)  # junk, which decoders step over byte by byte
        marker = data[at]
        at += 1
        if marker in _BARE:
            continue
        if marker == 0xD9:
            raise ImageError("corrupt")  # the end, and no picture yet
        end = at + _u16(data, at)
        if end < at + 2:
            raise ImageError("corrupt")
        if end > len(data):
            raise ImageError("truncated")
        if marker in _FRAMES:
            if size is not None:
                raise ImageError("corrupt")
            frame, channels, size = marker, data[at + 7], (_u16(data, at + 5), _u16(data, at + 3))
        elif marker == 0xDA:
            break
        elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
            is_exif = marker == 0xE1 and not has_exif and data.startswith(_EXIF, at + 2)
            has_exif = has_exif or is_exif
            says = {0xE0: _JFIF, 0xEE: _ADOBE}.get(marker)
            is_kept = says is not None and data.startswith(says, at + 2)
            if not is_exif and not is_kept:
                cuts.drop(begin, end)
        at = end
    if size is None:
        raise ImageError("corrupt")
    is_in_scans = frame in (0xC2, 0xC6, 0xCA, 0xCE) or data[at + 2] < channels
    if is_in_scans and data.count(b"\xff\xda", at) >= MAX_SCANS:
        _count_scans(data, end, cuts)
    return Container("JPEG", *size, cuts.rest())


def _count_scans(data: bytes, at: int, cuts: _Cuts) -> None:
    scans = 1
    while found := _AFTER_SCAN.search(data, at):
        cuts.part()
        at = found.end()
        marker = data[at - 1]
        if marker == 0xD9:
            return
        scans += marker == 0xDA
        if scans > MAX_SCANS:
            raise ImageError("too_many_parts")
        if marker not in _BARE:
            at += _u16(data, at)


# ── PNG ─────────────────────────────────────────────────────────────────────────────────────────────────────

_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def _png(data: bytes) -> Container:
    """Without the chunks of an animation what is left is its default image: what a viewer without animations shows."""
    if data[12:16] != b"IHDR":
        raise ImageError("corrupt" if len(data) >= 16 else "truncated")
    width, height = _u32(data, 16), _u32(data, 20)
    cuts = _Cuts(data)
    at, has_exif = 8, False
    while at + 12 <= len(data):
        cuts.part()
        kind = data[at + 4 : at + 8]
        end = at + 12 + _u32(data, at)
        if kind not in _NEEDED:
            is_exif = kind == b"eXIf" and not has_exif and end - at < 65_536
            has_exif = has_exif or is_exif
            if not is_exif:
                cuts.drop(at, min(end, len(data)))
        if kind == b"IEND":
            return Container("PNG", width, height, cuts.rest(end))
        at = end
    return Container("PNG", width, height, cuts.rest(), is_short=True)


# ── GIF ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _gif(data: bytes) -> Container:
    """The first frame, as a file of its own."""
    width, height = _little(data, 6, 2), _little(data, 8, 2)
    cuts = _Cuts(data)
    at = 13 + _colours(data[10])
    for begin, kind in _gif_parts(data, at, cuts):
        if kind == 0x2C:
            left, top, across, down = (_little(data, begin + 1 + 2 * i, 2) for i in range(4))
            at = begin + 10 + _colours(data[begin + 9]) + 1
            end, is_short = _after_blocks(data, at, cuts)
            # A frame may be bigger than the screen that the header names: the picture grows with it.
            return Container("GIF", max(width, left + across), max(height, top + down), cuts.rest(end) + b";", is_short)
    raise ImageError("truncated")


def _gif_parts(data: bytes, at: int, cuts: _Cuts) -> Iterator[tuple[int, int]]:
    """Place and kind of the frames; what stands between them is dropped but for the graphic control (transparency)."""
    while at < len(data):
        cuts.part()
        kind = data[at]
        if kind == 0x2C:
            yield at, kind
            return
        if kind == 0x21:
            end, _ = _after_blocks(data, at + 2, cuts)
            if data[at + 1] != 0xF9:
                cuts.drop(at, end)
        elif kind == 0x00:
            end = at + 1
            cuts.drop(at, end)
        else:
            raise ImageError("corrupt")
        at = end


def _after_blocks(data: bytes, at: int, cuts: _Cuts) -> tuple[int, bool]:
    """Where a row of length-prefixed blocks ends, and whether the file ends before."""
    while at < len(data):
        cuts.part()
        size = data[at]
        at += 1 + size
        if not size:
            return at, False
    return len(data), True


def _colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# ── WebP, BMP ───────────────────────────────────────────────────────────────────────────────────────────────


def _webp(data: bytes) -> Container:
    """The size of the canvas; a decoder refuses frames that reach beyond it."""
    is_short = 8 + _little(data, 4, 4) > len(data)
    match data[12:16]:
        case b"VP8X":
            width, height = 1 + _little(data, 24, 3), 1 + _little(data, 27, 3)
        case b"VP8L":
            bits = _little(data, 21, 4)
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
        case _:
            raise ImageError("corrupt" if len(data) >= 16 else "truncated")
    return Container("WEBP", width, height, data, is_short)


def _bmp(data: bytes) -> Container:
    if data[14] == 12:
        return Container("BMP", _little(data, 18, 2), _little(data, 20, 2), data)
    if _little(data, 30, 4) in (1, 2):
        raise ImageError("unsupported_format", "bmp_rle")  # Pillow unpacks runs in Python, a second per megabyte
    height = _little(data, 22, 4)
    return Container("BMP", _little(data, 18, 4), min(height, 2**32 - height), data)  # negative: rows from the top


def _little(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size], "little")
