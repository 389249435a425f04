"""A Parquet file that a setting names, opened with the columns that are needed of it.

Knows nothing of what they mean. The pool's input is read by the other files here.
"""

from collections.abc import Sequence
from typing import BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.errors import InputError
from capfilt.schema import misfit_of_pairs


def open_table(path: str, columns: Sequence[str], holding: str = "") -> pq.ParquetFile:
    """The file; on any file system that fsspec knows.

    Args:
        columns: That it must have.
        holding: What it should be full of, such as "pairs"; for the message.

    Raises:
        InputError: If the file is missing, no Parquet, or lacks a column.
    """
    what = f"a Parquet file{f' with {holding}' if holding else ''}"
    try:
        table = pq.ParquetFile(cast(BinaryIO, fsspec.open(path, "rb").open()))
    except FileNotFoundError:
        raise InputError(f"{path}: expected {what}, found none; check the path") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: expected {what}, found {error}; write it again, or name another") from None
    lacking = sorted(set(columns) - set(table.schema_arrow.names))
    if lacking:
        raise InputError(f"{path}: expected the columns {', '.join(columns)}, found no {', '.join(lacking)}; name another file")
    return table


def open_pairs(path: str, columns: Sequence[str], holding: str = "") -> pq.ParquetFile:
    """As `open_table`, of pictures and texts: what stands in `image` and in the column of texts is checked too.

    Raises:
        InputError: As `open_table`; or if those columns hold something else.
    """
    table = open_table(path, columns, holding)
    misfit = misfit_of_pairs(table.schema_arrow, columns)
    if misfit is not None:
        raise InputError(f"{path}: {misfit}. Write it so, or name another file")
    return table
