"""Cheap rules: which one rejects a row, or a web text, before any model sees it.

Pure functions of sizes, carried values and text; they know nothing of tables. The names they give are the closed codes of the
pool's `error` (rows) and `captions[].rule` (texts).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from capfilt.config.screen import ImageRule, MaxAspect, MaxValue, MinSide, MinValue, NotEmpty, NotFileName, TextRule, Words


def rejects_image(
    rules: Sequence[ImageRule], *, width: int | None, height: int | None, upstream: Mapping[str, Any]
) -> str | None:
    """Name of the first rule that rejects the row, with the column for a rule on a carried value; None where all let it pass.

    `width` and `height` are pixels as served. A size or value that is not known rejects nothing.
    """
    name: str | None
    for rule in rules:
        match rule:
            case MinSide():
                name = rule.kind if _is_below(_shorter(width, height), rule.px) else None
            case MaxAspect():
                name = rule.kind if is_elongated(width, height, rule.ratio) else None
            case MaxValue():
                name = f"{rule.kind}:{rule.column}" if _is_below(rule.value, upstream.get(rule.column)) else None
            case MinValue():
                name = f"{rule.kind}:{rule.column}" if _is_below(upstream.get(rule.column), rule.value) else None
            case _:
                assert_never(rule)
        if name is not None:
            return name
    return None


def rejects_text(rules: Sequence[TextRule], text: str) -> str | None:
    """Name of the first rule that rejects the web text; None where all let it pass."""
    for rule in rules:
        match rule:
            case NotEmpty():
                is_rejected = not text.strip()
            case NotFileName():
                is_rejected = is_file_name(text)
            case Words():
                is_rejected = not rule.min <= len(text.split()) <= rule.max
            case _:
                assert_never(rule)
        if is_rejected:
            return rule.kind
    return None


def _shorter(width: int | None, height: int | None) -> int | None:
    return None if width is None or height is None else min(width, height)


def is_elongated(width: int | None, height: int | None, ratio: float) -> bool:
    """True where the longer side is more than `ratio` times the shorter one."""
    if not width or not height:
        return False
    return max(width, height) > ratio * min(width, height)


def _is_below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value < limit


_EXTENSION = r"\.(?:jpe?g|jfif|png|gif|webp|bmp|tiff?|heic|avif|svg|psd|cr2|nef|arw|dng|raw|mp4|mov|pdf)"
_CAMERA = r"(?:img|imag|imgp|dsc|dscn|dscf|dcim|pict|pano|mvi|mov|vid|gopr|gp|dji|sam|cimg|kimg|wp|pxl|scan|hpim|sany|sdc|fil|p)"
_PLAIN = (
    r"(?:image|img|photo|foto|picture|pic|untitled|unnamed|thumb(?:nail)?|download|file|screen ?shot|whatsapp image|scan|slide|"
    r"page|figure|fig)"
)
_NUMBERS = r"[\d(][\d()x×_\-:., ]*(?:at|um|à|am|pm|[\d()x×_\-:., ])*"
_PATTERNS: tuple[re.Pattern[str], ...] = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"[^\s/\\]+{_EXTENSION}",  # one word with an extension
        rf"{_CAMERA}[_\- ]?\d{{3,}}(?:[_\-() ]*\w{{0,4}})?(?:{_EXTENSION})?",  # IMG_2034, DSC_0012, P1010023, DSC00017 (2)
        rf"{_CAMERA}[_\- ]?\d{{3,}}\s+(?:nikon|canon|sony|olympus|panasonic|fuji(?:film)?|kodak|samsung|pentax|leica)\b.{{0,30}}",
        rf"{_PLAIN}[_\- ]*{_NUMBERS}(?:{_EXTENSION})?",  # image001.png, Screenshot 2021-03-04 at 12.30.png
        rf"(?:{_CAMERA}|{_PLAIN})[_\- ]?\d*\s*{_EXTENSION}",
        r"\d{4,}(?:[_\-x]\w{1,12}){0,6}",  # 20190521_113312, 1280x720, 123456_n
        r"(?=.*\d)[0-9a-f]{12,}(?:[_\-]\w{1,12})?",  # a hash
        r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",  # a UUID
    )
)


def is_file_name(text: str) -> bool:
    """True for camera strings and file names: `IMG_2034.JPG`, `DSC_0012`, `image001.png`, `P1010023`, a hash.

    The whole text must be one; `photo of a dog.jpg` describes something and is none, `2019` alone is none either.
    """
    words = " ".join(text.split())
    return 0 < len(words) <= 200 and any(pattern.fullmatch(words) and words.lower() not in _YEARS for pattern in _PATTERNS)


_YEARS = frozenset(str(year) for year in range(1000, 2100))
