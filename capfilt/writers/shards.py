"""What every shard format shares: how rows are cut into shards, how they are keyed, and the protocol of a format.

Keys are img2dataset's: five digits of shard, then the row's number in it (four digits up to 10,000 rows per shard).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from capfilt.writers.whole import file_hash

SHARD_DIGITS = 5


@dataclass(frozen=True)
class ShardFile:
    """One entry of the manifest. `path` is relative to the data set's folder."""

    path: str
    sha256: str
    rows: int
    bytes: int


class ShardFormat(Protocol):
    """Writes shards one after another into its folder: `open`, `add` any number of times, `close`."""

    name: str

    def open(self, shard: int) -> None: ...

    def add(self, table: pa.Table) -> None:
        """Rows of the data set (schema.DATASET, then `upstream`) that belong to the open shard."""
        ...

    def close(self) -> list[Path]:
        """The files of the shard, now complete."""
        ...


def shard_name(shard: int) -> str:
    return f"{shard:0{SHARD_DIGITS}d}"


def row_key(row: int, rows_per_shard: int) -> str:
    """Key of the data set's row number `row`: 10,001 at 1,000 rows per shard is `000100001`."""
    shard, rest = divmod(row, rows_per_shard)
    return f"{shard_name(shard)}{rest:0{max(4, len(str(rows_per_shard - 1)))}d}"


def write_shards(tables: Iterable[pa.Table], formats: list[ShardFormat], folder: Path, rows_per_shard: int) -> list[ShardFile]:
    """Cut `tables`, which follow each other, into shards of `rows_per_shard` rows in every format; the last may be smaller."""
    files: list[ShardFile] = []
    shard, filled = 0, 0
    for part in _cut(tables, rows_per_shard):
        if filled == 0:
            for form in formats:
                form.open(shard)
        for form in formats:
            form.add(part)
        filled += part.num_rows
        if filled == rows_per_shard:
            files += _close(formats, folder, filled)
            shard, filled = shard + 1, 0
    if filled:
        files += _close(formats, folder, filled)
    return sorted(files, key=lambda file: file.path)


def _cut(tables: Iterable[pa.Table], rows_per_shard: int) -> Iterator[pa.Table]:
    """The same rows, cut where a shard ends; no empty table."""
    filled = 0
    for table in tables:
        start = 0
        while start < table.num_rows:
            rows = min(rows_per_shard - filled, table.num_rows - start)
            yield table.slice(start, rows)
            start += rows
            filled = (filled + rows) % rows_per_shard


def _close(formats: list[ShardFormat], folder: Path, rows: int) -> list[ShardFile]:
    paths = [path for form in formats for path in form.close()]
    return [ShardFile(path.relative_to(folder).as_posix(), file_hash(path), rows, path.stat().st_size) for path in paths]
