"""A view: a selection as the sorted uids of its kept rows, in the layout of DataComp's subset files.

Writes no picture and no text; which rows were kept stands in the selection.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.errors import InputError
from capfilt.writers.whole import write_json

UID = np.dtype("u8,u8")
"""Upper and lower 64 bits of a uid of 32 hex digits."""


def write_view(selection: Path, folder: Path, *, settings: Mapping[str, Any]) -> int:
    """Write view.npy and view.json (`settings` and the number of uids) into `folder`; give back how many uids there are.

    A uid that several kept rows share is there once.

    Raises:
        InputError: If a uid is not 32 hex digits, as may happen where the input brings its own.
    """
    parts = []
    with pq.ParquetFile(selection) as file:
        for batch in file.iter_batches(columns=["uid", "kept"]):
            kept = batch.column("kept")
            row = np.repeat(np.arange(len(kept)), pc.list_value_length(kept).to_numpy(zero_copy_only=False))
            has_text = np.zeros(len(kept), dtype=np.bool_)
            has_text[row[kept.flatten().to_numpy(zero_copy_only=False)]] = True
            parts.append(packed(batch.column("uid").filter(pa.array(has_text))))
    uids = np.unique(np.concatenate([*parts, np.zeros(0, UID)]))
    np.save(folder / "view.npy", uids)
    write_json(folder / "view.json", {**settings, "uids": len(uids)})
    return len(uids)


def packed(uids: pa.Array) -> npt.NDArray[np.void]:
    """Strings of 32 hex digits as pairs of numbers."""
    texts: list[str] = uids.to_pylist()
    try:
        if any(len(text) != 32 for text in texts):
            raise ValueError
        numbers = np.frombuffer(bytes.fromhex("".join(texts)), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    except ValueError:
        raise InputError(
            "expected uids of 32 hex digits, which a view packs into two numbers; found others. Leave `uid` out of read.columns"
        ) from None
    out = np.zeros(len(numbers), dtype=UID)
    out["f0"], out["f1"] = numbers[:, 0], numbers[:, 1]
    return out


def unpacked(uids: npt.NDArray[np.void]) -> list[str]:
    """The inverse of `packed`."""
    return [f"{int(high):016x}{int(low):016x}" for high, low in uids]
