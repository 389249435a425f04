"""Is a text a file name, a camera string or an address, and no description?

Knows the usual cameras, content systems and shops only by the shape of the names they write. The whole text must be one:
`photo of a dog.jpg` describes something.
"""

import re

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
        r"(?:https?:|ftp:)?//\S+|www\.\S+",  # an address
        rf"(?:[\w.%+\-]+[/\\])+[\w.%+\-]+{_EXTENSION}",  # products/joggers.jpg
        r"(?=\S*_)[\w.\-+%\[\]()]+",  # Flowers_and_leaves: no spaces, and an underline
        r"(?=\S*\d)[^\W_]+(?:-+[^\W_]+){2,}-?",  # mount-everest-89590: no spaces, two hyphens and a digit
        r"[^\W_]+(?:-+[^\W_]+){4,}-?",  # inside-blue-mosque-istanbul-turkey; jack-in-the-box is none
        r"\S*(?:%20|%2[cd])\S*",  # an escaped space, comma or hyphen
    )
)
_YEARS = frozenset(str(year) for year in range(1000, 2100))
_LONGEST = 300
"""Characters. File systems allow 255 in a name; a longer text is prose, and need not be searched."""


def is_file_name(text: str) -> bool:
    """True for `IMG_2034.JPG`, `DSC_0012`, `image001.png`, `mount-everest-89590_1280`, `http://…`, a hash; not for `2019`."""
    words = " ".join(text.split())
    if not 0 < len(words) <= _LONGEST or words.lower() in _YEARS:
        return False
    return any(pattern.fullmatch(words) for pattern in _PATTERNS)
