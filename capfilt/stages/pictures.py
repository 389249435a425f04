"""How a stage gets from bytes to pictures: anew each time, or remembered for the stage that comes next.

Knows no table and no model.
"""

from typing import Protocol

from PIL.Image import Image

from capfilt.images import decode_rgb


class Decode(Protocol):
    """As `capfilt.images.decode_rgb`."""

    def __call__(self, data: bytes, *, covering: int | None = None) -> Image: ...


class Remembered:
    """`decode_rgb` that gives the same object again for the last `limit` pictures. For one thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: dict[tuple[bytes, int | None], Image] = {}

    def __call__(self, data: bytes, *, covering: int | None = None) -> Image:
        key = (data, covering)
        if key not in self._seen:
            while len(self._seen) >= self._limit:
                del self._seen[next(iter(self._seen))]
            self._seen[key] = decode_rgb(data, covering=covering)
        return self._seen[key]
