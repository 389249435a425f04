"""Rows of a task's Parquet file: pictures and clips as small squares, labels as numbers.

Knows nothing of models or tasks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from capfilt.errors import InputError
from capfilt.evaluation.truth import read_rows
from capfilt.training.pictures import Pictures

Int64Array = npt.NDArray[np.int64]
Rows = list[dict[str, Any]]


def read_task(path: str, columns: Sequence[str]) -> Rows:
    """All rows.

    Raises:
        InputError: If the file is missing, lacks a column, has no row, or a row lacks a value.
    """
    rows = read_rows(path, tuple(columns))
    if not rows:
        raise InputError(f"{path}: expected rows with {', '.join(columns)}, found none; name another file")
    for number, row in enumerate(rows):
        empty = [name for name in columns if row[name] is None or (isinstance(row[name], list) and not row[name])]
        if empty:
            raise InputError(
                f"{path}: expected a value in every column, found none for {', '.join(empty)} in row {number}; leave the row out"
            )
    return rows


class Shown:
    """What each row shows: I pictures (one, two, or the frames of a clip), as uint8 squares; equal pictures are kept once."""

    def __init__(
        self, encoded: Sequence[Sequence[bytes]], size: int, spool: Path, name: str, *, takes_middle: bool = False
    ) -> None:
        """`takes_middle`: of each picture the middle square, not all of it squeezed."""
        per_row = len(encoded[0])
        flat = [data for row in encoded for data in row]
        self._pictures = Pictures(size, len(flat), spool=spool, takes_middle=takes_middle)
        self._index_BI: Int64Array = np.array(
            self._pictures.add(flat, [f"{name} row {i // per_row}" for i in range(len(flat))]), dtype=np.int64
        ).reshape(-1, per_row)

    def __len__(self) -> int:
        return len(self._index_BI)

    def take(self, rows_B: Int64Array) -> Tensor:
        """uint8 [B, I, 3, S, S]."""
        index_BI = self._index_BI[rows_B]
        pixels = self._pictures.take(index_BI.ravel())
        return pixels.view(*index_BI.shape, *pixels.shape[1:])

    def close(self) -> None:
        self._pictures.close()


def evenly(count: int, wanted: int) -> Int64Array:
    """[wanted] of `count` frames at equal distances, the middle of each part; of fewer frames some are taken twice."""
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)


class Labels:
    """The labels of what is learnt from, as numbers in sorted order."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.names = sorted({str(value) for value in values})
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def numbers(self, values: Sequence[Any]) -> Int64Array:
        """-1 for a label that was not there to be learnt."""
        return np.array([self._numbers.get(str(value), -1) for value in values], dtype=np.int64)
