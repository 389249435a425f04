"""Shards as Parquet: 00000.parquet …, every column, the encoded pictures among them.

Knows nothing about where the rows come from.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.schema import SCHEMA_VERSION
from capfilt.writers.shards import shard_name

ROWS_PER_GROUP = 512  # bounds what writing and reading hold in memory


class ParquetShards:
    """Row groups of `ROWS_PER_GROUP` rows, however the rows arrive, so that a shard's bytes depend on its rows alone.

    `_common_metadata` holds the schema, so an empty data set has one too; readers skip names that begin with `_`.
    """

    name = "parquet"

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._schema = schema.with_metadata({b"capfilt": json.dumps({"schema_version": SCHEMA_VERSION}).encode()})
        self._path = folder
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        folder.mkdir(parents=True)
        pq.write_metadata(self._schema, folder / "_common_metadata")

    def open(self, shard: int) -> None:
        self._path = self._folder / f"{shard_name(shard)}.parquet"
        # Pictures and hashes never repeat; a dictionary of them is wasted work.
        self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd", use_dictionary=["origin"])

    def add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        while sum(part.num_rows for part in self._waiting) >= ROWS_PER_GROUP:
            joined = pa.concat_tables(self._waiting)
            self._write(joined.slice(0, ROWS_PER_GROUP))
            self._waiting = [joined.slice(ROWS_PER_GROUP)]

    def close(self) -> list[Path]:
        rest = [part for part in self._waiting if part.num_rows]
        if rest:
            self._write(pa.concat_tables(rest))
        self._waiting = []
        assert self._writer is not None
        self._writer.close()
        self._writer = None
        return [self._path]

    def _write(self, table: pa.Table) -> None:
        assert self._writer is not None
        self._writer.write_table(
            table.combine_chunks().replace_schema_metadata(self._schema.metadata), row_group_size=ROWS_PER_GROUP
        )
