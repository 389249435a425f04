"""Commit: a finished chunk becomes a Parquet file with its fingerprint and counts in the footer, whole or not at all.

Runs in the worker; knows nothing about who asked for the chunk. The same table gives the same bytes. The file holds its own
sha256, taken with zeros in its place, so that a chunk is known, and a flipped byte found, without a list kept elsewhere.
"""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt import schema
from capfilt.errors import ContractError, OutputError
from capfilt.run import files

FOOTER_KEY = b"capfilt"
SEAL_KEY = b"capfilt.sha256"
_NO_SEAL = "0" * 64


@dataclass(frozen=True)
class Footer:
    """What a chunk file says about itself. `counts` are rows by status; `made_from` is the `sha256` of the pool chunk behind
    a candidates chunk; `sha256` is the file's own, empty before it is written."""

    schema_version: int
    chunk_id: str
    fingerprint: str
    stage: Literal["pool", "candidates"]
    rows: int
    counts: dict[str, int]
    made_from: str = ""
    sha256: str = ""


def chunk_path(folder: str, chunk_id: str) -> str:
    return files.join(folder, f"chunk-{chunk_id}.parquet")


def commit(
    table: pa.Table,
    folder: str,
    *,
    chunk_id: str,
    fingerprint: str,
    stage: Literal["pool", "candidates"],
    made_from: str = "",
) -> Footer:
    """Write `folder`/chunk-<id>.parquet.

    Raises:
        ContractError: If the table's columns are not those of capfilt/schema.py.
    """
    table = _as_promised(table, stage)
    counts = dict(sorted(Counter(table["status"].to_pylist()).items()))
    footer = Footer(schema.SCHEMA_VERSION, chunk_id, fingerprint, stage, table.num_rows, counts, made_from)
    data, digest = parquet_bytes(table, footer)
    files.put(chunk_path(folder, chunk_id), data)
    return replace(footer, sha256=digest)


def parquet_bytes(table: pa.Table, footer: Footer) -> tuple[memoryview, str]:
    """The file and its sha256. One row group, fixed encoding: nothing in it depends on the machine or the hour."""
    told = {name: value for name, value in asdict(footer).items() if name != "sha256"}
    mark = json.dumps(told, sort_keys=True, ensure_ascii=False).encode()
    table = table.combine_chunks().replace_schema_metadata({FOOTER_KEY: mark})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        # Pictures are compressed already: a second time costs a tenth of what downloading them does, and saves nothing.
        compression={name: "none" if name == "image" else "zstd" for name in _leaves(table.schema)},
        use_dictionary=[name for name in _leaves(table.schema) if name != "image"],
        write_statistics=False,
    ) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({SEAL_KEY: _NO_SEAL})
    data = bytearray(memoryview(sink.getvalue()))
    digest = sha256(data).hexdigest()
    at = _seal_at(data)
    data[at : at + len(digest)] = digest.encode()
    return memoryview(data), digest


def _seal_at(data: bytes | bytearray) -> int:
    """Where in the file the 64 digits stand; the Parquet footer, which ends the file, holds them as they are.

    Raises:
        ValueError: If there are none.
    """
    begin = max(0, len(data) - 8 - int.from_bytes(data[-8:-4], "little"))
    found = re.search(re.escape(SEAL_KEY) + rb"[^0-9a-f]{1,8}([0-9a-f]{64})", data[begin:])
    if found is None:
        raise ValueError("no sha256 in the footer")
    return begin + found.start(1)


def seal_holds(data: bytes, digest: str) -> bool:
    """Whether `data` is the file that was committed with the sha256 `digest`, byte for byte."""
    try:
        at = _seal_at(data)
    except ValueError:
        return False
    hashed = sha256(memoryview(data)[:at])
    hashed.update(_NO_SEAL.encode())
    hashed.update(memoryview(data)[at + len(_NO_SEAL) :])
    return data[at : at + len(_NO_SEAL)] == digest.encode() and hashed.hexdigest() == digest


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
    """The footer of a chunk file, None where the file is torn, not one of ours, or was written over by another program, which
    loses the sha256. Files of the first version never had one, nor `made_from`.

    Raises:
        OutputError: If the disk or the store did not answer, which says nothing about the file.
    """
    try:
        with files.open_file(path) as file:
            found = pq.ParquetFile(file)
            mark: Any = json.loads((found.schema_arrow.metadata or {})[FOOTER_KEY])
            seal = (found.metadata.metadata or {}).get(SEAL_KEY, b"").decode()
            footer = Footer(**{**mark, "sha256": seal})
            if not seal and "made_from" in mark:
                return None
            return footer if found.metadata.num_rows == footer.rows else None
    except OSError as problem:
        if problem.errno is None or problem.errno in files.NOT_THERE:  # Arrow's own word for a torn file has no number
            return None
        raise OutputError(
            f"{path}: expected a chunk file that can be read, found {problem.strerror or problem}. It was left as it is; run the "
            "same command again when that has passed; if it does not pass, delete the file, and its chunk is made anew"
        ) from None
    except (pa.ArrowException, KeyError, ValueError, TypeError):
        return None
