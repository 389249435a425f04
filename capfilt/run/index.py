"""The index: every input file with its size, etag and rows per row group, kept in inputs.parquet and extended by appended files.

Reads Parquet footers, never rows; knows nothing about chunks.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.errors import InputError, RunStateError
from capfilt.plan import InputFile, fold
from capfilt.run import files

INPUTS = pa.schema([("path", pa.string()), ("size", pa.int64()), ("etag", pa.string()), ("row_groups", pa.list_(pa.int64()))])
EDGE_BYTES = 1 << 20  # of both ends of a local file: the last MiB holds the footer, and so the statistics of every column chunk


def scan(paths: Sequence[str], columns: Sequence[str]) -> list[InputFile]:
    """The files behind `paths` (fsspec paths, globs allowed), each once, sorted by path within each of `paths`.

    Args:
        columns: Input columns the run reads; each file must have them.

    Raises:
        InputError: If a pattern matches nothing, or a file is not Parquet or lacks a column.
    """
    found = list(dict.fromkeys(path for pattern in paths for path in _expand(pattern)))
    return [_describe(path, columns) for path in found]


def _expand(pattern: str) -> list[str]:
    filesystem, inner = fsspec.core.url_to_fs(pattern)
    if any(sign in pattern for sign in "*?["):
        hits = sorted(str(hit) for hit in filesystem.glob(inner) if filesystem.isfile(hit))
    else:
        hits = [inner] if filesystem.isfile(inner) else []
    if not hits:
        raise InputError(f"read.paths: expected at least one file at `{pattern}`, found none. Check the path and its pattern")
    if files.is_remote(pattern):
        return [str(filesystem.unstrip_protocol(hit)) for hit in hits]
    return hits if pattern.startswith("/") else [_as_written(pattern, inner, hit) for hit in hits]


def _as_written(pattern: str, absolute: str, hit: str) -> str:
    """A relative pattern gives relative paths: chunk ids must not depend on where the working folder lies."""
    base = absolute.removesuffix(pattern.removeprefix("./"))
    return hit.removeprefix(base) if base != absolute else hit


def _describe(path: str, columns: Sequence[str]) -> InputFile:
    filesystem, inner = fsspec.core.url_to_fs(path)
    try:
        with filesystem.open(inner, "rb") as file:
            footer = pq.ParquetFile(file)
            groups = tuple(footer.metadata.row_group(i).num_rows for i in range(footer.num_row_groups))
            names = footer.schema_arrow.names
            size = int(filesystem.size(inner))
            etag = _etag(filesystem.info(inner), file, size)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"read.paths: expected a readable Parquet file at `{path}`, found: {error}. Repair it or leave it out"
        ) from None
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"read.columns: expected {missing} in `{path}`, found the columns {names}. Map the names under read.columns"
        )
    return InputFile(path, size, etag, groups)


def _etag(info: dict[str, Any], file: BinaryIO, size: int) -> str:
    """An object store's own etag; for a local file, from content, so that a copied input keeps its chunk ids."""
    for name in ("ETag", "etag", "md5Hash"):
        if info.get(name):
            return str(info[name]).strip('"')
    digest = blake2b(size.to_bytes(8, "little"), digest_size=8)
    file.seek(0)
    digest.update(file.read(EDGE_BYTES))
    file.seek(max(0, size - EDGE_BYTES))
    digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()


def save(folder: str, index: Sequence[InputFile]) -> None:
    table = pa.Table.from_pylist(
        [{"path": fold(f.path, folder), "size": f.size, "etag": f.etag, "row_groups": list(f.row_groups)} for f in index],
        schema=INPUTS,
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    files.put_changed(files.join(folder, "inputs.parquet"), memoryview(sink.getvalue()))


def load(folder: str) -> list[InputFile] | None:
    """The index as the run last saw it, None for a run that has none."""
    data = files.get(files.join(folder, "inputs.parquet"))
    if data is None:
        return None
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    return [
        InputFile(row["path"].replace("{output}", folder.rstrip("/"), 1), row["size"], row["etag"], tuple(row["row_groups"]))
        for row in rows
    ]


def extend(known: Sequence[InputFile] | None, found: Sequence[InputFile]) -> list[InputFile]:
    """The known files in their order, then the new ones.

    Raises:
        RunStateError: If a known file has changed or is gone.
    """
    if known is None:
        return list(found)
    now = {file.path: file for file in found}
    for old in known:
        new = now.get(old.path)
        if new is None or new.etag != old.etag or new.size != old.size:
            what = "none" if new is None else f"{new.size} bytes, etag {new.etag}"
            raise RunStateError(
                f"inputs.parquet: expected the input `{old.path}` as the run first saw it ({old.size} bytes, etag {old.etag}), "
                f"found {what}. Put the file back, begin again with --fresh, or write to another `output`"
            )
    old_paths = {file.path for file in known}
    return [*known, *(file for file in found if file.path not in old_paths)]
