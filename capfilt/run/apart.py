"""Runs a chunk that was at work when the run was killed in a process of its own, so that one that kills its process is set aside.

For the executor whose process is the run's. Nobody knows by then whether the chunk killed the run or somebody else did, so only
the deaths of its own process count against it. Knows nothing about what the work is.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from capfilt.errors import ContractError
from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.attempts import Attempts, marks_folder
from capfilt.run.build import Job
from capfilt.run.work import CaptionWork, FilterWork, FusedWork, Outcome, PoolWork

MARK = "-at-work"


class Apart:
    """Marks every chunk at work with a file. `suspects` are the chunks whose marks an earlier start left: it was killed."""

    def __init__(self, job: Job) -> None:
        self._job, self._folder = job, marks_folder(job)
        self._one = threading.Lock()  # a process with models or a downloader is large
        marks = files.listing(self._folder)
        self.suspects = {mark.rpartition("/")[2].removesuffix(MARK) for mark in marks if mark.endswith(MARK)}
        for mark in marks:
            if not mark.endswith(MARK):
                files.remove(mark)  # counts of a start that was killed say nothing about its chunks

    def run(self, chunk: Chunk, work: Callable[[Chunk], Outcome]) -> Outcome:
        """`work(chunk)` here, or the outcome of a suspect's own process."""
        mark = files.join(self._folder, chunk.chunk_id + MARK)
        if chunk.chunk_id in self.suspects:
            with self._one:
                outcome = _elsewhere(self._job, chunk)
            if outcome.error is None or outcome.fatal is not None:
                files.remove(mark)  # else it stays a suspect, for `capfilt retry`
            return outcome
        files.create(mark, b"")
        try:
            return work(chunk)
        finally:
            files.remove(mark)

    def tidy(self) -> None:
        if not files.listing(self._folder):
            files.remove(self._folder)


def _elsewhere(job: Job, chunk: Chunk) -> Outcome:
    """As often as its process dies and Attempts allows; the last process only tells the outcome of that."""
    context = multiprocessing.get_context("spawn")
    for _ in range(2 + job.pipeline.resources.retries_per_chunk):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, chunk, theirs), daemon=True)
        try:
            process.start()
            theirs.close()
            told = ours.recv()
        except EOFError:
            continue
        finally:
            process.kill()
            process.join()
            ours.close()
        if isinstance(told, Exception):
            raise told
        outcome: Outcome = told
        return outcome
    raise ContractError(f"expected an outcome of chunk {chunk.chunk_id}, found its process dead before it began")


def _work(job: Job, chunk: Chunk, told: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # of the terminal, for the run: which ends this process as it sees fit
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        told.send(_counted(job, chunk))
    except Exception as problem:  # of the machinery: what a stage raises is an outcome
        told.send(problem)


def _counted(job: Job, chunk: Chunk) -> Outcome:
    """What Ray's actors do, in one process."""
    name = chunk.chunk_id
    if job.kind == "pool":
        return Attempts(job, PoolWork.stage).run(name, lambda: PoolWork(job)(chunk))
    if job.fused:
        return Attempts(job, FusedWork.stage).run(name, lambda: FusedWork(job)(name))
    done = Attempts(job, CaptionWork.stage).run(name, lambda: CaptionWork(job)(name))
    outcome, table = (done, None) if isinstance(done, Outcome) else done
    return outcome if table is None else Attempts(job, FilterWork.stage).run(name, lambda: FilterWork(job)(name, table))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
