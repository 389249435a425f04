"""The files of `round-N/dedup`: pairs.parquet and contamination.parquet, with how they were made in their footers.

Written once per candidates table; a threshold above the recorded one can be applied later, a lower one cannot.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.dedup.groups import Bytes, Groups, duplicate_groups
from capfilt.dedup.neighbours import DIGITS
from capfilt.errors import ConfigError, InputError

PAIRS_FILE, CONTAMINATION_FILE, SUMMARY_FILE = "pairs.parquet", "contamination.parquet", "summary.json"

PAIRS = pa.schema([("a", pa.string()), ("b", pa.string()), ("cosine", pa.float32()), ("kind", pa.string())])
"""Row ids a < b; `kind` is sha256 (equal bytes; the smallest row of a set with each of the others) or cosine."""

CONTAMINATION = pa.schema([("row_id", pa.string()), ("by", pa.string()), ("cosine", pa.float32()), ("kind", pa.string())])
"""Each row that shows an evaluation picture, with the closest one as `file#key`."""


def write_table(table: pa.Table, path: Path, facts: dict[str, Any]) -> None:
    """`facts` go into the footer under b"capfilt"; the same table and facts give the same bytes."""
    footer = {b"capfilt": json.dumps(facts, sort_keys=True).encode()}
    pq.write_table(table.replace_schema_metadata(footer), path, compression="zstd")


def read_facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"capfilt"])
    return facts


def recorded_groups(folder: Path, min_cosine: float | None) -> tuple[Groups, float]:
    """The duplicate groups at `min_cosine` (None: at the recorded one), and the threshold used.

    Raises:
        InputError: If the folder has no pairs.
        ConfigError: If the threshold is below the recorded one.
    """
    path = folder / PAIRS_FILE
    if not path.is_file():
        raise InputError(f"expected neighbour pairs at `{path}`; found none. Run the pipeline with a `dedup` section first")
    recorded = float(read_facts(path)["min_cosine"])
    wanted = recorded if min_cosine is None else min_cosine
    if round(wanted, DIGITS) < round(recorded, DIGITS):
        raise ConfigError(
            f"dedup.min_cosine: expected at least {recorded}, at which this run recorded its pairs; found {wanted}. Closer pairs "
            "can be picked from the record, further ones are not in it: raise it, or run the pipeline with `--from dedup`"
        )
    pairs = pq.read_table(path)
    is_exact = pairs["kind"].combine_chunks().to_numpy(zero_copy_only=False) == "sha256"
    groups = duplicate_groups(
        row_id_bytes(pairs["a"]), row_id_bytes(pairs["b"]), pairs["cosine"].to_numpy(), is_exact.astype(np.bool_), wanted
    )
    return groups, wanted


def recorded_contamination(folder: Path, min_cosine: float) -> tuple[Bytes, pa.Array]:
    """(sorted row ids, `file#key` of each) of the rows that show an evaluation picture at `min_cosine`."""
    table = pq.read_table(folder / CONTAMINATION_FILE)
    cosine = np.round(table["cosine"].to_numpy().astype(np.float64), DIGITS)
    is_exact = table["kind"].combine_chunks().to_numpy(zero_copy_only=False) == "sha256"
    table = table.filter(pa.array(is_exact.astype(np.bool_) | (cosine >= round(min_cosine, DIGITS))))
    return row_id_bytes(table["row_id"]), table["by"].combine_chunks()


def row_id_bytes(column: pa.ChunkedArray) -> Bytes:
    """Row ids as numpy byte strings: they compare and search faster than objects, and row ids are ASCII."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if len(array) == 0:
        return np.zeros(0, dtype="S1")
    ids: Bytes = array.to_numpy(zero_copy_only=False).astype("S")
    return ids
