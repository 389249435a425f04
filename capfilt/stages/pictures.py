"""How a stage gets from a table's bytes to pictures, in batches: decoded anew, or remembered for the stage that comes next.

Knows no model.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa
from PIL.Image import Image

from capfilt.images import ImageError, decode_rgb
from capfilt.schema import CAPTION
from capfilt.stages.base import at_work


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


class PictureBatches:
    """The pictures of a table, `size` rows at a time; a batch without any is left out.

    Args:
        covering: Pixels of the shorter side that suffice; None: all.
    """

    def __init__(self, table: pa.Table, size: int, decode: Decode, covering: int | None) -> None:
        self._table, self._size, self._decode, self._covering = table, size, decode, covering
        self._status: list[str] = table["status"].to_pylist()
        self._error: list[str | None] = table["error"].to_pylist()

    def __iter__(self) -> Iterator[tuple[list[int], list[Image]]]:
        """Rows and their pictures. A row whose bytes are none is marked."""
        row_ids: list[str] = self._table["row_id"].to_pylist()
        image = self._table["image"].combine_chunks()
        for start in range(0, len(row_ids), self._size):
            rows = range(start, min(start + self._size, len(row_ids)))
            at_work(row_ids[rows.start : rows.stop])
            pictures, at = [], []
            for row in rows:
                try:
                    pictures.append(self._decode(image[row].as_py(), covering=self._covering))
                    at.append(row)
                except ImageError as problem:
                    self._status[row], self._error[row] = "image_invalid", str(problem)
            if at:
                yield at, pictures
        at_work(())

    def told(self, captions: list[list[dict[str, Any]]]) -> pa.Table:
        """The table with these `captions`, and the marks."""
        table = self._table
        for name, column in (
            ("captions", pa.array(captions, pa.list_(CAPTION))),
            ("status", pa.array(self._status, pa.string())),
            ("error", pa.array(self._error, pa.string())),
        ):
            table = table.set_column(table.column_names.index(name), name, column)
        return table
