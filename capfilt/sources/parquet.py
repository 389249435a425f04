"""Parquet: a chunk is a slice of one row group, with or without pictures inside.

A slice is decoded from the start of its row group, batch by batch, so that memory holds the slice and not the row group.
"""

from collections.abc import Callable
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.config.read import Source
from capfilt.errors import InputError
from capfilt.plan import Chunk
from capfilt.sources import names
from capfilt.sources.rows import Rows

BATCH_ROWS = 1024
BUFFER_BYTES = 1 << 20  # of each column: a row group of pictures does not fit into memory


def describe(stream: IO[bytes]) -> tuple[tuple[int, ...], pa.Schema]:
    """Rows of each row group and the columns, from the footer.

    Raises:
        OSError, pa.ArrowException: For a file that is not Parquet.
    """
    file = pq.ParquetFile(stream)
    groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
    return groups, file.schema_arrow


def read(chunk: Chunk, config: Source, columns: Callable[[list[str]], dict[str, str]]) -> Rows:
    """The rows of `chunk`; `columns` says of the file's names which is which (ours -> theirs).

    Where the footer is whole and the rows are not, `on_bad_file: skip` makes them `bad_file`.

    Raises:
        InputError: If the file cannot be read, has changed, lacks a column or has one of a type that does not fit.
    """
    try:
        table, found = _slice(chunk, config.keep_columns, columns)
    except _Damaged:
        if config.on_bad_file == "refuse":
            raise
        table, found = _nothing(chunk, config.keep_columns, columns)
        marks = {row: ("bad_file", f"{chunk.chunk_id}-{row}".encode()) for row in range(chunk.rows)}
    else:
        marks = {}
    nothing: list[Any] = [None] * chunk.rows

    def strings(name: str) -> list[str | None]:
        return _strings(table[found[name]], found[name], chunk.path) if name in found else nothing

    image = _bytes(table[found["image"]], found["image"], chunk.path) if "image" in found else None
    upstream = _upstream(table, config.keep_columns) if config.keep_columns else None
    return Rows(strings("url"), strings("text"), strings("uid"), strings("file"), image, upstream, marks)


class _Damaged(InputError):
    pass


def _nothing(chunk: Chunk, keep: list[str], columns: Callable[[list[str]], dict[str, str]]) -> tuple[pa.Table, dict[str, str]]:
    """Nulls of the types that the footer gives."""
    with fsspec.open(chunk.path, "rb") as stream, pq.ParquetFile(stream) as file:
        schema = file.schema_arrow
    found = columns(schema.names)
    wanted = dict.fromkeys([*found.values(), *keep])
    return pa.table({name: pa.nulls(chunk.rows, schema.field(name).type) for name in wanted}), found


def _slice(chunk: Chunk, keep: list[str], columns: Callable[[list[str]], dict[str, str]]) -> tuple[pa.Table, dict[str, str]]:
    try:
        with fsspec.open(chunk.path, "rb") as stream, pq.ParquetFile(stream, buffer_size=BUFFER_BYTES) as file:
            found = columns(file.schema_arrow.names)
            names.require(file.schema_arrow.names, keep, chunk.path)
            if chunk.row_group >= file.num_row_groups:
                raise _changed(chunk, f"{file.num_row_groups} row groups")
            group_rows = file.metadata.row_group(chunk.row_group).num_rows
            if group_rows < chunk.start + chunk.rows:
                raise _changed(chunk, f"{group_rows} rows in row group {chunk.row_group}")
            wanted = list(dict.fromkeys([*found.values(), *keep]))
            return _batches(file, chunk, wanted), found
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _Damaged(
            f"{chunk.path}: expected a readable Parquet file, found: {reason}. Restore the file, or set read.on_bad_file: skip, "
            "which gives its rows the error `bad_file`; the run then continues"
        ) from None


def _batches(file: pq.ParquetFile, chunk: Chunk, wanted: list[str]) -> pa.Table:
    end, at, kept = chunk.start + chunk.rows, 0, []
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[chunk.row_group], columns=wanted, use_threads=False):
        first, last = max(chunk.start - at, 0), min(end - at, batch.num_rows)
        if first < last:
            kept.append(batch.slice(first, last - first))
        at += batch.num_rows
        if at >= end:
            break
    return pa.Table.from_batches(kept)


def _changed(chunk: Chunk, found: str) -> InputError:
    return InputError(
        f"{chunk.path}: expected rows {chunk.start} to {chunk.start + chunk.rows} of row group {chunk.row_group}, found {found}. "
        "The file has changed since the run began; restore it, or start over with --fresh"
    )


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array, dictionary encoding undone: whether a file uses it must not change the schema."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _strings(column: pa.ChunkedArray, name: str, path: str) -> list[str | None]:
    array = _plain(column)
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_binary(kind):
        # Parquet promises UTF-8 and does not check it.
        return [
            None if value is None else value.decode("utf-8", "replace") for value in array.cast(pa.large_binary()).to_pylist()
        ]
    if pa.types.is_null(kind):
        return [None] * len(array)
    try:
        return [None if value is None else str(value) for value in array.cast(pa.string()).to_pylist()]
    except pa.ArrowException:
        raise InputError(
            f"{path}: expected text in column `{name}`, found {kind}. Map another column in `read.columns`"
        ) from None


def _bytes(column: pa.ChunkedArray, name: str, path: str) -> list[bytes | None]:
    """Bytes, or the field `bytes` of a struct, as Hugging Face writes pictures."""
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return [None if value is None else value["bytes"] for value in column.to_pylist()]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        values: list[bytes | None] = column.to_pylist()
        return values
    if pa.types.is_null(kind):
        return [None] * len(column)
    raise InputError(
        f"{path}: expected the bytes of pictures in column `{name}`, found {kind}. Map another column in `read.columns`, "
        "or use `kind: url_list` for addresses"
    )


def _upstream(table: pa.Table, keep: list[str]) -> pa.Array:
    arrays = [_plain(table[name]) for name in keep]
    return pa.StructArray.from_arrays(
        arrays, fields=[pa.field(name, array.type) for name, array in zip(keep, arrays, strict=True)]
    )
