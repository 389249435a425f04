"""Counts, in files, how often a chunk was begun and not ended, so that one that kills its process is not tried for ever.

The process that dies cannot tell; the next one reads the mark. From the second time on the mark also names the rows at work.
Knows nothing about what the work is.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.work import Outcome, rows_told
from capfilt.stages.base import watched

Made = TypeVar("Made")


class Attempts:
    """Marks of one stage of one job. A chunk that was begun before runs alone in its process: it is to blame if that dies."""

    def __init__(self, job: Job, stage: str) -> None:
        self._stage = stage
        self._folder = marks_folder(job)
        self._allowed = 1 + job.pipeline.resources.retries_per_chunk
        self._gate = _Gate()

    def run(self, chunk_id: str, work: Callable[[], Made]) -> Made | Outcome:
        """`work()`, or the outcome of a chunk whose process died as often as it may be tried."""
        mark = files.join(self._folder, f"{chunk_id}-{self._stage}")
        known = files.get_json(mark) or {"begun": 0, "at": None}
        begun, at = int(known["begun"]), known["at"]
        if begun >= self._allowed:
            error = f"its process died {begun} time(s) (killed, or out of memory)"
            return Outcome(chunk_id, self._stage, attempts=begun, error=error, at=at)

        def watch(row_ids: Sequence[str]) -> None:
            if begun:  # a suspect; the others need not pay for a file per batch
                files.put_json(mark, {"begun": begun + 1, "at": rows_told(row_ids)})

        with self._gate.alone() if begun else self._gate.together():
            files.put_json(mark, {"begun": begun + 1, "at": at})
            try:
                with watched(watch):
                    return work()
            finally:
                files.remove(mark)


def marks_folder(job: Job) -> str:
    return files.join(job.pipeline.output, "events", "attempts", job.name.replace("/", "-"))


class _Gate:
    """Many may be in together, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone)
            self._is_alone = True  # nobody enters any more; those inside may end
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
