"""What a worker does with one chunk: run its stages, commit, and tell the outcome as data.

A failing chunk is retried here and then reported with the rows that were at work; only a CapfiltError, which no retry can help,
ends the run. Knows no executor.
"""

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt import errors
from capfilt.config.select import SelectConfig
from capfilt.modeling.memory import shrinking
from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.again import with_new_answers
from capfilt.run.build import Job, StageName, build_stage, limit_threads
from capfilt.run.commit import SEAL_KEY, Footer, chunk_path, commit, read_footer
from capfilt.stages.base import Guarded, RowStage, watched
from capfilt.stages.combine import judged_scores

Made = TypeVar("Made")
BATCH_KEY = b"capfilt.batch"
"""In the schema of a table on its way to the filter, beside SEAL_KEY: how the captioner's batches shrank."""


@dataclass(frozen=True)
class Outcome:
    """How one chunk ended. `fatal` names the CapfiltError class that must end the run; `error` alone quarantines the chunk.

    `sha256` is of the committed file. `at` names the rows that were at work when it failed, where that is known. `batch` says how
    the model batches shrank for want of GPU memory, as in `caption 64 -> 32`.
    """

    chunk_id: str
    stage: str
    counts: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0
    attempts: int = 1
    texts: int = 0  # candidate texts with a score
    believed: int = 0  # of those, at or above the threshold; for the display, `select` decides
    error: str | None = None
    fatal: str | None = None
    sha256: str = ""
    at: str | None = None
    batch: str | None = None


class Stages:
    """The row stages of one worker, built at the first chunk and built anew after a failure."""

    def __init__(self, job: Job, names: tuple[StageName, ...], threads: int | None) -> None:
        self._job, self._names, self._threads = job, names, threads
        self._built: list[RowStage] | None = None
        self._building = threading.Lock()

    def forget(self) -> None:
        self._built = None

    def __call__(self, table: pa.Table) -> pa.Table:
        stages = self._ready()
        if self._threads is not None:  # in one process another stage may have set its own since
            limit_threads(self._threads)
        for stage in stages:
            table = stage(table)
        return table

    def working(self) -> str | None:
        """Of stages that run as one, the one that is at work or failed."""
        inner = self._built[0].stage if self._built and isinstance(self._built[0], Guarded) else None
        return getattr(inner, "at", None)

    def _ready(self) -> list[RowStage]:
        with self._building:
            if self._built is None:
                if self._threads is not None:
                    limit_threads(self._threads)
                self._built = [build_stage(name, self._job) for name in self._names]
            return self._built


class PoolWork:
    """read -> download -> screen -> commit. May be called from several threads at once."""

    stage = "download"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stages = Stages(job, ("download", "screen"), None)

    def __call__(self, chunk: Chunk) -> Outcome:
        def make() -> Footer:
            from capfilt.stages.read import read_chunk

            job, source = self._job, self._job.pipeline.read
            assert source is not None  # there would be no chunk
            read = read_chunk(chunk, source)
            if job.again is None:
                table = self._stages(read)
            else:
                known = _committed(job.folder, chunk.chunk_id)
                changed = with_new_answers(known, job.again, read, self._stages)
                footer = read_footer(chunk_path(job.folder, chunk.chunk_id)) if changed is None else None
                if footer is not None:
                    return footer
                table = known if changed is None else changed
            return commit(table, job.folder, chunk_id=chunk.chunk_id, fingerprint=job.fingerprint, stage="pool")

        return _told(chunk.chunk_id, self.stage, self._job, make, lambda: None, list)[0]


class CaptionWork:
    """pool chunk -> caption -> a table that still has its pictures, for the filter."""

    stage = "caption"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stages = Stages(job, ("caption",), job.pipeline.resources.caption.threads)

    def __call__(self, chunk_id: str) -> tuple[Outcome, pa.Table | None]:
        def make() -> pa.Table:
            table, seal = _sealed(self._job.pool, chunk_id)
            # The filter's worker may be another process: the table takes along which pool chunk it comes from.
            return self._stages(table).replace_schema_metadata({SEAL_KEY: seal})

        def narrow(row_ids: Sequence[str]) -> Sequence[str]:
            return at_fault(self._stages, _committed(self._job.pool, chunk_id), row_ids)

        outcome, table = _told(chunk_id, self.stage, self._job, make, self._stages.forget, narrow)
        if table is not None and outcome.batch is not None:
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), BATCH_KEY: outcome.batch})
        return outcome, table


class FilterWork:
    """captioned table -> filter -> commit without the pictures."""

    stage = "filter"

    def __init__(self, job: Job) -> None:
        self._job = job
        names: tuple[StageName, ...] = ("filter",) if job.pipeline.filter is not None else ()
        self._stages = Stages(job, names, job.pipeline.resources.filter.threads)

    def __call__(self, chunk_id: str, table: pa.Table) -> Outcome:
        seen = (0, 0)
        known = table.schema.metadata or {}
        made_from, shrunk = known.get(SEAL_KEY, b"").decode(), known.get(BATCH_KEY, b"").decode()
        table = table.replace_schema_metadata(None)

        def make() -> Footer:
            nonlocal seen
            done = self._stages(table)
            if self._job.pipeline.select is not None:
                seen = _believed(done, self._job.pipeline.select)
            return _commit(self._job, done, chunk_id, made_from)

        def narrow(row_ids: Sequence[str]) -> Sequence[str]:
            return at_fault(self._stages, table, row_ids)

        outcome = _told(chunk_id, self.stage, self._job, make, self._stages.forget, narrow)[0]
        batch = ", ".join(told for told in (shrunk, outcome.batch) if told) or None
        return replace(outcome, texts=seen[0], believed=seen[1], batch=batch)


class FusedWork:
    """pool chunk -> caption and filter as one -> commit without the pictures. Its outcomes name the stage that failed."""

    stage = "caption"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stages = Stages(job, ("caption+filter",), job.pipeline.resources.caption.threads)

    def __call__(self, chunk_id: str) -> Outcome:
        seen, failed = (0, 0), self.stage

        def make() -> Footer:
            nonlocal seen, failed
            table, seal = _sealed(self._job.pool, chunk_id)
            try:
                done = self._stages(table)
            except Exception:
                failed = self._stages.working() or failed
                raise
            if self._job.pipeline.select is not None:
                seen = _believed(done, self._job.pipeline.select)
            return _commit(self._job, done, chunk_id, seal.decode())

        def narrow(row_ids: Sequence[str]) -> Sequence[str]:
            return at_fault(self._stages, _committed(self._job.pool, chunk_id), row_ids)

        outcome = _told(chunk_id, "caption+filter", self._job, make, self._stages.forget, narrow)[0]
        return replace(outcome, stage=failed if outcome.error is not None else "filter", texts=seen[0], believed=seen[1])


def _sealed(folder: str, chunk_id: str) -> tuple[pa.Table, bytes]:
    """The rows of a committed chunk, and the sha256 that its footer holds."""
    with files.open_file(chunk_path(folder, chunk_id)) as file, pq.ParquetFile(file) as found:
        return found.read().replace_schema_metadata(None), (found.metadata.metadata or {}).get(SEAL_KEY, b"")


def _commit(job: Job, table: pa.Table, chunk_id: str, made_from: str) -> Footer:
    return commit(table, job.folder, chunk_id=chunk_id, fingerprint=job.fingerprint, stage="candidates", made_from=made_from)


def _committed(folder: str, chunk_id: str) -> pa.Table:
    """The rows of a committed chunk, without what its footer says."""
    with files.open_file(chunk_path(folder, chunk_id)) as file:
        return pq.read_table(file).replace_schema_metadata(None)


def _believed(table: pa.Table, select: SelectConfig) -> tuple[int, int]:
    """Scored texts, and those whose score reaches the threshold."""
    scores = pc.struct_field(pc.list_flatten(table["captions"]), "scores")
    found = judged_scores(scores, select)
    found = found[~np.isnan(found)]
    return len(found), int((found >= np.float32(select.threshold)).sum())


def _told(
    chunk_id: str,
    stage: str,
    job: Job,
    make: Callable[[], Made],
    forget: Callable[[], None],
    narrow: Callable[[Sequence[str]], Sequence[str]],
) -> tuple[Outcome, Made | None]:
    """`make` tried `1 + retries_per_chunk` times; errors that no retry can help end it at once.

    After the last try `narrow` finds, among the rows that were at work, those at fault.
    """
    started = time.monotonic()
    tries = 1 + job.pipeline.resources.retries_per_chunk
    error = ""
    rows: Sequence[str] = ()

    def watch(row_ids: Sequence[str]) -> None:
        nonlocal rows
        rows = row_ids

    for attempt in range(1, tries + 1):
        rows = ()
        try:
            with watched(watch), shrinking() as shrunk:
                made = make()
        except errors.CapfiltError as problem:
            return Outcome(chunk_id, stage, attempts=attempt, error=str(problem), fatal=_public(type(problem))), None
        except Exception as problem:  # whatever a stage raises is the chunk's, not the run's
            error = _brief(problem)
            forget()
        else:
            counts = made.counts if isinstance(made, Footer) else {}
            count = made.rows if isinstance(made, Footer) else 0
            seal = made.sha256 if isinstance(made, Footer) else ""
            seconds = time.monotonic() - started
            batch = f"{stage} {shrunk.told}" if shrunk.told else None
            return Outcome(chunk_id, stage, counts, count, seconds, attempt, sha256=seal, batch=batch), made
    at = rows_told(narrow(rows))
    return Outcome(chunk_id, stage, seconds=time.monotonic() - started, attempts=tries, error=error, at=at), None


def at_fault(stages: Callable[[pa.Table], pa.Table], table: pa.Table, row_ids: Sequence[str]) -> Sequence[str]:
    """Of the rows that were at work when `stages` failed, the fewest of one half, quarter … that still fail by themselves.

    Where both halves fail, or neither does, the cause is not one row (or the device is lost): then the search ends.
    """

    def fails(part: Sequence[str]) -> bool:
        try:
            stages(table.filter(pc.is_in(table["row_id"], value_set=pa.array(part, pa.string()))))
        except Exception:  # whatever it raises: the question is only whether it does
            return True
        return False

    while len(row_ids) > 1:
        middle = len(row_ids) // 2
        failing = [part for part in (row_ids[:middle], row_ids[middle:]) if fails(part)]
        if len(failing) != 1:
            break
        row_ids = failing[0]
    return row_ids


def rows_told(row_ids: Sequence[str]) -> str | None:
    """`row A`, or `rows A to B`; None where no row was at work."""
    if not row_ids:
        return None
    return f"row {row_ids[0]}" if len(row_ids) == 1 else f"rows {row_ids[0]} to {row_ids[-1]}"


def _public(kind: type[errors.CapfiltError]) -> str:
    """The name of the class in capfilt/errors.py that `kind` is or comes from: with it the exit code travels."""
    return next(str(base.__name__) for base in kind.__mro__ if getattr(errors, base.__name__, None) is base)


def _brief(problem: BaseException) -> str:
    """The error and where it was raised: enough to find it, one line."""
    frames = traceback.extract_tb(problem.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {problem}{where}".replace("\n", " ")[:500]


def restore(outcome: Outcome) -> errors.CapfiltError:
    """The error that must end the run, with its own class again."""
    kind: Any = getattr(errors, outcome.fatal or "", errors.CapfiltError)
    restored: errors.CapfiltError = kind(outcome.error)
    return restored
