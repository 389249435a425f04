"""Read: a chunk of an input file -> row_id, uid, url, text and the carried columns.

Maps the input's column names to ours and says of each row whether it has an address; fetches nothing but the input file.
"""

import difflib
from typing import TYPE_CHECKING

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.config.read import ReadConfig
from capfilt.errors import InputError
from capfilt.identity import row_id, uid_of
from capfilt.schema import COLUMNS, READ_COLUMNS, UPSTREAM

if TYPE_CHECKING:
    from capfilt.plan import Chunk


def read_chunk(chunk: "Chunk", config: ReadConfig) -> pa.Table:
    """The chunk's rows with READ_COLUMNS, and `upstream` where columns are carried.

    A row without an address is there too: `download_failed`, `bad_url`. Texts that are not UTF-8 get replacement characters.

    Raises:
        InputError: If the file cannot be read, has changed, or lacks a mapped or carried column.
    """
    wanted = list(dict.fromkeys([*config.columns.values(), *config.keep_columns]))
    found = _slice(chunk, wanted)
    url = _strings(found, config.columns["url"], chunk.path)
    text = _strings(found, config.columns["text"], chunk.path) if "text" in config.columns else [None] * chunk.rows
    given = _strings(found, config.columns["uid"], chunk.path) if "uid" in config.columns else [None] * chunk.rows
    url = [address.strip() or None if address is not None else None for address in url]
    values = {
        "row_id": [row_id(chunk.chunk_id, row) for row in range(chunk.rows)],
        "uid": [uid or uid_of(address or "", words) for uid, address, words in zip(given, url, text, strict=True)],
        "url": url,
        "text": text,
        "status": ["ok" if address else "download_failed" for address in url],
        "error": [None if address else "bad_url" for address in url],
        "image": [None] * chunk.rows,
    }
    types = {column.name: column.type for column in COLUMNS}
    arrays = [pa.array(values[name], types[name]) for name in READ_COLUMNS]
    names = list(READ_COLUMNS)
    if config.keep_columns:
        arrays.append(_upstream(found, config.keep_columns))
        names.append(UPSTREAM)
    return pa.table(arrays, names=names)


def _slice(chunk: "Chunk", wanted: list[str]) -> pa.Table:
    try:
        with fsspec.open(chunk.path, "rb") as stream, pq.ParquetFile(stream) as file:
            _require(file.schema_arrow.names, wanted, chunk.path)
            if chunk.row_group >= file.num_row_groups:
                raise _changed(chunk, f"{file.num_row_groups} row groups")
            table = file.read_row_group(chunk.row_group, columns=wanted, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{chunk.path}: expected a readable Parquet file, found: {reason}. Restore the file, or take it out of `read.paths`"
        ) from None
    if table.num_rows < chunk.start + chunk.rows:
        raise _changed(chunk, f"{table.num_rows} rows in row group {chunk.row_group}")
    return table.slice(chunk.start, chunk.rows)


def _changed(chunk: "Chunk", found: str) -> InputError:
    return InputError(
        f"{chunk.path}: expected rows {chunk.start} to {chunk.start + chunk.rows} of row group {chunk.row_group}, found {found}. "
        "The file has changed since the run began; restore it, or start over with --fresh"
    )


def _require(names: list[str], wanted: list[str], path: str) -> None:
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or [n for n in names if n.lower() == name.lower()]
            hint = f"Did you mean `{near[0]}`? " if near else ""
            raise InputError(
                f"{path}: expected a column `{name}`, found {', '.join(f'`{n}`' for n in names) or 'no columns'}. "
                f"{hint}Map it in `read.columns` or take it out of `read.keep_columns`"
            )


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """One array, dictionary encoding undone: whether a file uses it must not change the schema."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _strings(table: pa.Table, name: str, path: str) -> list[str | None]:
    array = _plain(table[name])
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


def _upstream(table: pa.Table, names: list[str]) -> pa.Array:
    arrays = [_plain(table[name]) for name in names]
    return pa.StructArray.from_arrays(
        arrays, fields=[pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)]
    )
