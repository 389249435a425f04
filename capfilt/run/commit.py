"""Commit: a finished chunk becomes a Parquet file with its fingerprint and counts in the footer, whole or not at all.

Runs in the worker; knows nothing about who asked for the chunk. The same table gives the same bytes.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt import schema
from capfilt.errors import ContractError
from capfilt.run import files

FOOTER_KEY = b"capfilt"


@dataclass(frozen=True)
class Footer:
    """What a chunk file says about itself. `counts` are rows by status."""

    schema_version: int
    chunk_id: str
    fingerprint: str
    stage: Literal["pool", "candidates"]
    rows: int
    counts: dict[str, int]


def chunk_path(folder: str, chunk_id: str) -> str:
    return files.join(folder, f"chunk-{chunk_id}.parquet")


def commit(table: pa.Table, folder: str, *, chunk_id: str, fingerprint: str, stage: Literal["pool", "candidates"]) -> Footer:
    """Write `folder`/chunk-<id>.parquet.

    Raises:
        ContractError: If the table's columns are not those of capfilt/schema.py.
    """
    table = _as_promised(table, stage)
    counts = dict(sorted(Counter(table["status"].to_pylist()).items()))
    footer = Footer(schema.SCHEMA_VERSION, chunk_id, fingerprint, stage, table.num_rows, counts)
    files.put(chunk_path(folder, chunk_id), parquet_bytes(table, footer))
    return footer


def parquet_bytes(table: pa.Table, footer: Footer) -> memoryview:
    """One row group, fixed encoding: nothing in it depends on the machine or the hour."""
    mark = json.dumps(asdict(footer), sort_keys=True, ensure_ascii=False).encode()
    table = table.combine_chunks().replace_schema_metadata({FOOTER_KEY: mark})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, table.num_rows),
        compression="zstd",
        use_dictionary=[name for name in _leaves(table.schema) if name != "image"],  # a dictionary of pictures is a waste
        write_statistics=False,
    )
    return memoryview(sink.getvalue())


def _leaves(arrow: pa.Schema) -> list[str]:
    """Parquet's dotted names of the columns that hold values."""
    sink = pa.BufferOutputStream()
    pq.write_table(arrow.empty_table(), sink)
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [leaves.column(i).path for i in range(len(leaves.names))]


def _as_promised(table: pa.Table, stage: str) -> pa.Table:
    """The schema's columns in its order. A missing one is a bug, as is a type that does not fit."""
    upstream = table.schema.field(schema.UPSTREAM).type if schema.UPSTREAM in table.column_names else None
    if stage == "pool":
        wanted = schema.pool_schema(upstream)
    elif schema.EMBEDDING in table.column_names:
        wanted = schema.candidates_schema(table.schema.field(schema.EMBEDDING).type.list_size, upstream)
    else:  # a run without a filter
        full = schema.candidates_schema(1, upstream)
        wanted = full.remove(full.get_field_index(schema.EMBEDDING))
    missing = [name for name in wanted.names if name not in table.column_names]
    if missing:
        raise ContractError(f"the {stage} table lacks {missing}; found {table.column_names}. Every stage must write its columns")
    try:
        return table.select(wanted.names).cast(wanted)
    except (pa.ArrowException, ValueError) as error:
        raise ContractError(f"the {stage} table does not fit capfilt/schema.py: {error}") from None


def read_footer(path: str) -> Footer | None:
    """The footer of a chunk file, None where the file is torn or not one of ours."""
    try:
        with files.open_file(path) as file:
            found = pq.ParquetFile(file)
            mark: Any = json.loads((found.schema_arrow.metadata or {})[FOOTER_KEY])
            footer = Footer(**mark)
            return footer if found.metadata.num_rows == footer.rows else None
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None
