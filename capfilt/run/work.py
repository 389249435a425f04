"""What a worker does with one chunk: run its stages, commit, and tell the outcome as data.

A failing chunk is retried here and then reported; only a CapfiltError, which no retry can help, ends the run. Knows no executor.
"""

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt import errors
from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.build import Job, StageName, build_stage, limit_threads
from capfilt.run.commit import Footer, chunk_path, commit
from capfilt.stages.base import RowStage

Made = TypeVar("Made")


@dataclass(frozen=True)
class Outcome:
    """How one chunk ended. `fatal` names the CapfiltError class that must end the run; `error` alone quarantines the chunk."""

    chunk_id: str
    stage: str
    counts: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0
    attempts: int = 1
    texts: int = 0  # candidate texts with a score
    believed: int = 0  # of those, at or above `select.min_itm`; for the display, `select` decides
    error: str | None = None
    fatal: str | None = None


class Stages:
    """The row stages of one worker, built at the first chunk and built anew after a failure."""

    def __init__(self, job: Job, names: tuple[StageName, ...], threads: int | None) -> None:
        self._job, self._names, self._threads = job, names, threads
        self._built: list[RowStage] | None = None
        self._building = threading.Lock()

    def forget(self) -> None:
        self._built = None

    def __call__(self, table: pa.Table) -> pa.Table:
        for stage in self._ready():
            table = stage(table)
        return table

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

            table = self._stages(read_chunk(chunk, self._job.pipeline.read))
            return commit(table, self._job.folder, chunk_id=chunk.chunk_id, fingerprint=self._job.fingerprint, stage="pool")

        return _told(chunk.chunk_id, self.stage, self._job, make, lambda: None)[0]


class CaptionWork:
    """pool chunk -> caption -> a table that still has its pictures, for the filter."""

    stage = "caption"

    def __init__(self, job: Job) -> None:
        self._job = job
        self._stages = Stages(job, ("caption",), job.pipeline.resources.caption.threads)

    def __call__(self, chunk_id: str) -> tuple[Outcome, pa.Table | None]:
        def make() -> pa.Table:
            with files.open_file(chunk_path(self._job.pool, chunk_id)) as file:
                return self._stages(pq.read_table(file).replace_schema_metadata(None))

        return _told(chunk_id, self.stage, self._job, make, self._stages.forget)


class FilterWork:
    """captioned table -> filter -> commit without the pictures."""

    stage = "filter"

    def __init__(self, job: Job) -> None:
        self._job = job
        names: tuple[StageName, ...] = ("filter",) if job.pipeline.filter is not None else ()
        self._stages = Stages(job, names, job.pipeline.resources.filter.threads)

    def __call__(self, chunk_id: str, table: pa.Table) -> Outcome:
        seen = (0, 0)

        def make() -> Footer:
            nonlocal seen
            done = self._stages(table)
            if self._job.pipeline.select is not None:
                seen = _believed(done, self._job.pipeline.select.min_itm)
            return commit(done, self._job.folder, chunk_id=chunk_id, fingerprint=self._job.fingerprint, stage="candidates")

        outcome = _told(chunk_id, self.stage, self._job, make, self._stages.forget)[0]
        return replace(outcome, texts=seen[0], believed=seen[1])


def _believed(table: pa.Table, min_itm: float) -> tuple[int, int]:
    """Scored texts, and those whose ITM reaches the threshold."""
    scores = pc.list_flatten(pc.struct_field(pc.list_flatten(table["captions"]), "scores"))
    itm = pc.drop_null(pc.struct_field(scores, "itm"))
    return len(itm), pc.sum(pc.greater_equal(itm, min_itm)).as_py() or 0


def _told(
    chunk_id: str, stage: str, job: Job, make: Callable[[], Made], forget: Callable[[], None]
) -> tuple[Outcome, Made | None]:
    """`make` tried `1 + retries_per_chunk` times; errors that no retry can help end it at once."""
    started = time.monotonic()
    tries = 1 + job.pipeline.resources.retries_per_chunk
    error = ""
    for attempt in range(1, tries + 1):
        try:
            made = make()
        except errors.CapfiltError as problem:
            return Outcome(chunk_id, stage, attempts=attempt, error=str(problem), fatal=type(problem).__name__), None
        except Exception as problem:  # whatever a stage raises is the chunk's, not the run's
            error = _brief(problem)
            forget()
        else:
            counts = made.counts if isinstance(made, Footer) else {}
            rows = made.rows if isinstance(made, Footer) else 0
            return Outcome(chunk_id, stage, counts, rows, time.monotonic() - started, attempt), made
    return Outcome(chunk_id, stage, seconds=time.monotonic() - started, attempts=tries, error=error), None


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
