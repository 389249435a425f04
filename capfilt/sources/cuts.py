"""A file that can be entered at byte offsets, cut into stretches of a chunk's rows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """Rows of each stretch, the first byte of each and the end of the last; `problem` says why less than the file is read."""

    rows: tuple[int, ...]
    offsets: tuple[int, ...]
    problem: str | None = None


class Cutter:
    """Makes a Cut of rows that are added in order."""

    def __init__(self, rows_per_chunk: int) -> None:
        self._per_chunk = rows_per_chunk
        self._rows: list[int] = []
        self._offsets: list[int] = []
        self.rows = 0
        self.end = 0

    def add(self, offset: int, end: int) -> None:
        """One row from byte `offset` to `end`."""
        if self.rows % self._per_chunk == 0:
            self._rows.append(0)
            self._offsets.append(offset)
        self._rows[-1] += 1
        self.rows += 1
        self.end = end

    def done(self, problem: str | None) -> Cut:
        return Cut(tuple(self._rows), (*self._offsets, self.end) if self.rows else (), problem)
