"""Small JPEG data URIs of encoded pictures, until a budget of bytes is spent.

Knows nothing about rows; a picture that cannot be decoded has no thumbnail.
"""

import base64
import io

from PIL import Image

from capfilt.images import ImageError, decode_rgb

SIDE_PX = 160
QUALITY = 80
BUDGET_BYTES = 2_300_000
"""Of base64 text in one report, which leaves room for the page below 3 MB."""


class Thumbs:
    """Makes data URIs; `left_out` counts the pictures that no longer fitted."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._left = budget_bytes
        self.left_out = 0

    def uri(self, data: bytes | None) -> str | None:
        """A data URI of at most SIDE_PX pixels a side; None for nothing, broken bytes, or an empty budget."""
        if not data:
            return None
        made = _jpeg(data)
        if made is None:
            return None
        text = base64.b64encode(made).decode("ascii")
        if len(text) > self._left:
            self.left_out += 1
            return None
        self._left -= len(text)
        return f"data:image/jpeg;base64,{text}"


def _jpeg(data: bytes) -> bytes | None:
    """None for bytes that are no picture: a damaged pool must not stop a report."""
    try:
        picture = decode_rgb(data)
    except (ImageError, OSError, ValueError):
        return None
    picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()
