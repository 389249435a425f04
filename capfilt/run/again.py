"""Rows of a committed pool chunk, tried again: which ones, and how new answers take the place of old ones.

All other rows stay as they are, value for value. Knows neither the network nor the executor.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from capfilt.errors import ConfigError, ContractError

RetryStatus = Literal["download_failed", "opted_out", "image_invalid"]
"""What another download may change. The rest follows from the config: `--from screen` or `--from round-N/caption`."""


@dataclass(frozen=True)
class Again:
    """Rows to try again: those with `status`, and with an error that matches `error` if one is given.

    `error` is a code (`timeout`), the part of one before its colon, or a pattern (`http_5*`).
    """

    status: RetryStatus
    error: str | None = None

    def wants(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Of a pool table; [rows]."""
        pairs = zip(table["status"].to_pylist(), table["error"].to_pylist(), strict=True)
        return np.array([status == self.status and self._matches(error or "") for status, error in pairs], dtype=np.bool_)

    def _matches(self, error: str) -> bool:
        return self.error is None or fnmatchcase(error, self.error) or error.startswith(self.error + ":")


def again_of(status: str, error: str | None) -> Again:
    """From the command line.

    Raises:
        ConfigError: If another download cannot change rows with this status.
    """
    for known in get_args(RetryStatus):
        if status == known:
            return Again(known, error)
    raise ConfigError(
        f"--status: expected what another download may change ({', '.join(get_args(RetryStatus))}), found '{status}'. "
        "Rows that a rule rejected or a model could not work on are made anew with `capfilt run … --from`"
    )


def with_new_answers(table: pa.Table, again: Again, read: pa.Table, stages: Callable[[pa.Table], pa.Table]) -> pa.Table | None:
    """`table` with the rows that have another status now; None if there are none.

    A new answer counts unless it is a failed download: that says less than what is there.

    Args:
        table: The committed pool chunk.
        read: The same rows as `read` gives them, before any download.
        stages: download and screen.
    """
    if not table["row_id"].combine_chunks().equals(read["row_id"].combine_chunks()):
        raise ContractError("a chunk that is read again must have the rows it had; it has others")
    wanted = again.wants(table)
    if not wanted.any():
        return None
    fresh = stages(read.filter(pa.array(wanted))).select(table.column_names).cast(table.schema)
    has_answer = np.array([status not in (again.status, "download_failed") for status in fresh["status"].to_pylist()])
    if not has_answer.any():
        return None
    index = np.arange(table.num_rows)
    index[np.flatnonzero(wanted)[has_answer]] = table.num_rows + np.flatnonzero(has_answer)
    both = [
        pa.concat_arrays([table[name].combine_chunks(), fresh[name].combine_chunks()]).take(pa.array(index))
        for name in table.column_names
    ]
    return pa.Table.from_arrays(both, schema=table.schema)
