"""Parquet shards: bytes depend on the rows, not on how they arrive."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.schema import DATASET
from capfilt.writers import parquet
from capfilt.writers.parquet import ParquetShards


def rows(number: int) -> pa.Table:
    columns = {
        field.name: pa.array([f"{i:09d}" for i in range(number)]) if field.name == "key" else pa.nulls(number, field.type)
        for field in DATASET
    }
    return pa.table(columns, schema=DATASET)


def test_the_same_rows_in_other_pieces_give_the_same_bytes(tmp_path: Path) -> None:
    whole = rows(parquet.ROWS_PER_GROUP * 2 + 10)
    written = []
    for name, pieces in (("one", [len(whole)]), ("other", [1, 700, 100, len(whole) - 801])):
        shards, start = ParquetShards(tmp_path / name, DATASET), 0
        shards.open(0)
        for piece in pieces:
            shards.add(whole.slice(start, piece))
            start += piece
        written += shards.close()
    assert written[0].read_bytes() == written[1].read_bytes()
    with pq.ParquetFile(written[0]) as file:
        assert file.num_row_groups == 3
        assert file.read()["key"].to_pylist() == whole["key"].to_pylist()
