"""The index: every input file with its size, etag and how it is cut, kept in inputs.parquet and extended by appended files.

A file is scanned once in a run; knows nothing about chunks or formats.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.config.load import fold
from capfilt.errors import RunStateError
from capfilt.plan import InputFile
from capfilt.run import files
from capfilt.sources.scan import scan

__all__ = ["load", "save", "scan"]

INPUTS = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("etag", pa.string()),
        ("row_groups", pa.list_(pa.int64())),
        ("offsets", pa.list_(pa.int64())),
        ("names", pa.list_(pa.string())),
        ("columns", pa.list_(pa.list_(pa.string()))),
        ("problem", pa.string()),
    ]
)


def save(folder: str, index: Sequence[InputFile]) -> None:
    names = INPUTS.names
    rows = [{name: getattr(file, name) for name in names} | {"path": fold(file.path, folder)} for file in index]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=INPUTS), sink)
    files.put_changed(files.join(folder, "inputs.parquet"), memoryview(sink.getvalue()))


def load(folder: str) -> list[InputFile] | None:
    """The index as the run last saw it, None for a run that has none.

    Raises:
        RunStateError: If it is damaged.
    """
    path = files.join(folder, "inputs.parquet")
    data = files.get(path)
    if data is None:
        return None
    try:
        rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    except pa.ArrowException as problem:
        raise RunStateError(
            f"{path}: expected the list of the run's inputs, found {str(problem).rstrip('.')}. Delete it: with the same "
            "inputs, the next capfilt run makes it anew"
        ) from None
    return [
        InputFile(
            row["path"].replace("{output}", folder.rstrip("/"), 1),
            row["size"],
            row["etag"],
            tuple(row["row_groups"]),
            tuple(row.get("offsets") or ()),
            tuple(row.get("names") or ()),
            tuple((ours, theirs) for ours, theirs in row.get("columns") or ()),
            row.get("problem"),
        )
        for row in rows
    ]
