"""Which input column is which: as mapped in `read.columns`, else by the names that well-known data sets use.

Knows nothing of files.
"""

import difflib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from capfilt.config.read import KeepType
from capfilt.errors import InputError

KNOWN: dict[str, tuple[str, ...]] = {
    "url": ("url", "URL", "image_url", "Image URL"),
    "text": ("txt", "text", "TEXT", "caption", "CAPTION", "Caption", "title"),
    "uid": ("uid",),
    "image": ("image", "jpg", "jpeg", "png", "webp", "gif", "bmp", "image_bytes"),
    "file": ("file_name", "file", "filename", "filepath", "path", "image"),
}
"""Names found without mapping, the first that is there: DataComp (url, text, uid), LAION (URL, TEXT), img2dataset (url, caption,
txt, jpg), Hugging Face (image, file_name), open_clip (filepath, title)."""

_FLOATS = (
    "similarity",
    "punsafe",
    "pwatermark",
    "aesthetic",
    "aesthetic_score",
    "AESTHETIC_SCORE",
    "clip_b32_similarity_score",
    "clip_l14_similarity_score",
)
_INTS = ("width", "height", "original_width", "original_height", "WIDTH", "HEIGHT")
TYPES: dict[KeepType, pa.DataType] = {"text": pa.string(), "float": pa.float64(), "int": pa.int64(), "bool": pa.bool_()}


def find(
    mapped: Mapping[str, str | None], wanted: Sequence[str], optional: Sequence[str], names: Sequence[str], path: str
) -> dict[str, str]:
    """Ours -> theirs for `wanted` (must be there, unless mapped to null) and `optional` (may be).

    Raises:
        InputError: If a column is not there; says what is.
    """
    found: dict[str, str] = {}
    for ours in (*wanted, *optional):
        if ours in mapped:
            theirs = mapped[ours]
            if theirs is not None:
                require(names, [theirs], path)
                found[ours] = theirs
            continue
        hit = next((name for name in KNOWN[ours] if name in names), None)
        if hit is not None:
            found[ours] = hit
        elif ours in wanted:
            none = ", or say `text: null` if there is none" if ours == "text" else ""
            raise InputError(
                f"{path}: expected a column for `{ours}`, one of {_listed(KNOWN[ours])}, found {_listed(names)}. "
                f"Map it in `read.columns`{none}"
            )
    return found


def require(names: Sequence[str], wanted: Sequence[str], path: str) -> None:
    """Raises InputError for the first of `wanted` that is not in `names`."""
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or [n for n in names if n.lower() == name.lower()]
            hint = f"Did you mean `{near[0]}`? " if near else ""
            raise InputError(
                f"{path}: expected a column `{name}`, found {_listed(names)}. "
                f"{hint}Map it in `read.columns` or take it out of `read.keep_columns`"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no columns"


def keep_type(name: str, told: Mapping[str, KeepType]) -> KeepType:
    """Type of a carried column of a file that has no types."""
    if name in told:
        return told[name]
    return "float" if name in _FLOATS else "int" if name in _INTS else "text"
