"""What a row stage is, and the one wrapper that shows it healthy rows only and checks that it kept its promise.

A row stage turns a table into a table with the same rows in the same order, knowing more. It never drops a row: it sets `status`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.errors import ContractError


@runtime_checkable
class RowStage(Protocol):
    """`reads` and `writes` name columns of capfilt/schema.py. The constructor loads the model; a call changes only `writes`."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    def __call__(self, table: pa.Table) -> pa.Table: ...


Watcher = Callable[[Sequence[str]], None]
_WATCHERS: ContextVar[tuple[Watcher, ...]] = ContextVar("capfilt_watchers", default=())


def at_work(row_ids: Sequence[str]) -> None:
    """A stage says which rows it takes up now, none when it is through, so that whoever watches can name them if it fails."""
    for watcher in _WATCHERS.get():
        watcher(row_ids)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """While entered, `watcher` is told what this thread's stages say through `at_work`."""
    token = _WATCHERS.set((*_WATCHERS.get(), watcher))
    try:
        yield
    finally:
        _WATCHERS.reset(token)


class Guarded:
    """A stage that sees healthy rows only; the others pass by untouched, with nulls in columns the stage adds."""

    def __init__(self, stage: RowStage) -> None:
        self.stage = stage
        self.name, self.reads, self.writes = stage.name, stage.reads, stage.writes

    def __call__(self, table: pa.Table) -> pa.Table:
        missing = [name for name in self.reads if name not in table.column_names]
        if missing:
            raise ContractError(f"stage `{self.name}` reads {list(self.reads)}; its input lacks {missing}")
        is_healthy = pc.equal(table["status"], "ok")
        healthy = table.filter(is_healthy)
        done = self.stage(healthy) if healthy.num_rows else self._nothing(healthy)
        self._check(healthy, done)
        return _put_back(table, done, is_healthy.to_numpy(zero_copy_only=False))

    def _nothing(self, healthy: pa.Table) -> pa.Table:
        """An empty table still has the stage's columns: a stage must take zero rows."""
        return self.stage(healthy)

    def _check(self, before: pa.Table, after: pa.Table) -> None:
        if not before["row_id"].equals(after["row_id"]):
            raise ContractError(
                f"stage `{self.name}` must keep rows and their order; it was given {before.num_rows} rows and gave back "
                f"{after.num_rows}, or in another order"
            )
        for name in before.column_names:
            if name not in after.column_names:
                raise ContractError(
                    f"stage `{self.name}` dropped column `{name}`; a stage may only add or replace {list(self.writes)}"
                )
            if name not in self.writes and not _same(before[name], after[name]):
                raise ContractError(f"stage `{self.name}` changed column `{name}`; it may write only {list(self.writes)}")
        strangers = [name for name in after.column_names if name not in before.column_names and name not in self.writes]
        if strangers:
            raise ContractError(f"stage `{self.name}` added {strangers}; it may write only {list(self.writes)}")


def _same(before: pa.ChunkedArray, after: pa.ChunkedArray) -> bool:
    """Equal values. Arrow's own `equals` says that NaN, which pandas writes for a missing number, differs from itself."""
    return before.equals(after) or (before.type == after.type and _bytes(before) == _bytes(after))


def _bytes(column: pa.ChunkedArray) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"column": column}).combine_chunks()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _put_back(table: pa.Table, done: pa.Table, is_healthy: "pa.Array") -> pa.Table:
    """`table` with the columns of `done` at its healthy rows."""
    import numpy as np

    healthy_at = np.flatnonzero(is_healthy)
    where = np.full(table.num_rows, -1, dtype=np.int64)
    where[healthy_at] = np.arange(len(healthy_at))
    take = pa.array(where, mask=where < 0)
    out = table
    for field in done.schema:
        values = done[field.name].combine_chunks().take(take)
        if field.name in table.column_names:
            if table[field.name] is done[field.name]:
                continue
            old = table[field.name].combine_chunks()
            if old.type != values.type:
                old = old.cast(values.type)
            # if_else does not take every nested type, so rows are picked from both halves by index.
            both = pa.concat_arrays([old, done[field.name].combine_chunks()])
            index = np.where(where < 0, np.arange(table.num_rows), table.num_rows + where)
            values = both.take(pa.array(index))
            out = out.set_column(out.column_names.index(field.name), pa.field(field.name, values.type), values)
        else:
            out = out.append_column(pa.field(field.name, values.type), values)
    return out
