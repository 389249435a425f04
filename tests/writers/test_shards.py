"""Cutting rows into shards, and their keys."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.writers.shards import row_key, write_shards


class Remembers:
    """A format that writes the rows' numbers as text."""

    name = "text"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder
        self.rows: list[int] = []

    def open(self, shard: int) -> None:
        self.path, self.rows = self.folder / f"{shard}.txt", []

    def add(self, table: pa.Table) -> None:
        assert table.num_rows
        self.rows += table["n"].to_pylist()

    def close(self) -> list[Path]:
        self.path.write_text(" ".join(map(str, self.rows)))
        return [self.path]


@given(sizes=st.lists(st.integers(0, 9), max_size=8), rows_per_shard=st.integers(1, 6))
def test_shards_are_full_but_the_last_however_the_rows_arrive(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], rows_per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tables, total = [], 0
    for size in sizes:
        tables.append(pa.table({"n": pa.array(range(total, total + size), pa.int64())}))
        total += size
    files = write_shards(tables, [Remembers(folder)], folder, rows_per_shard)
    read = {file.path: [int(n) for n in (folder / file.path).read_text().split()] for file in files}
    expected = {
        f"{i // rows_per_shard}.txt": list(range(i, min(i + rows_per_shard, total))) for i in range(0, total, rows_per_shard)
    }
    assert read == expected
    assert all(file.rows == len(read[file.path]) for file in files)


@pytest.mark.parametrize(
    ("row", "per_shard", "key"),
    [(0, 1000, "000000000"), (1001, 1000, "000010001"), (9_999, 10_000, "000009999"), (10_000, 10_001, "0000010000")],
)
def test_keys_are_img2datasets(row: int, per_shard: int, key: str) -> None:
    assert row_key(row, per_shard) == key


@given(st.integers(1, 30_000), st.integers(0, 10**6), st.integers(0, 10**6))
def test_keys_sort_like_rows_and_never_repeat(per_shard: int, one: int, other: int) -> None:
    if max(one, other) // per_shard < 100_000:  # five digits of shard
        assert (row_key(one, per_shard) < row_key(other, per_shard)) == (one < other)
