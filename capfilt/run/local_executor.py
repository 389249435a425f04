"""Runs chunks in this process, one after the other; downloads overlap, as they wait for hosts and not for the CPU.

Same work, same files as on Ray; knows nothing about what is done already. A chunk that was at work when an earlier start was
killed comes first, in a process of its own (run/apart.py).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from capfilt.plan import Chunk
from capfilt.run.apart import Apart
from capfilt.run.build import Job, own_threads
from capfilt.run.work import CaptionWork, FilterWork, FusedWork, Outcome, PoolWork


class Executor(Protocol):
    """Runs a job over chunks and tells each outcome as soon as it is known; a chunk whose process died is an outcome too."""

    def start(self) -> None:
        """Begin what takes long, in the background."""
        ...

    def run(self, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]: ...

    def close(self) -> None: ...


class LocalExecutor:
    def start(self) -> None:
        pass

    def run(self, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]:
        apart = Apart(job)
        # Suspects first: models are not loaded here yet, and need not lie in memory twice.
        chunks = sorted(chunks, key=lambda chunk: chunk.chunk_id not in apart.suspects)
        yield from self._pool(job, chunks, apart) if job.kind == "pool" else self._candidates(job, chunks, apart)
        apart.tidy()

    def close(self) -> None:
        pass

    def _pool(self, job: Job, chunks: Sequence[Chunk], apart: Apart) -> Iterator[Outcome]:
        work = PoolWork(job)
        waiting = iter(chunks)
        with ThreadPoolExecutor(job.downloads_in_flight, "capfilt-chunk") as workers:
            running: set[Future[Outcome]] = set()
            while True:
                # Only as many as are at work are handed over: an interrupt must not have to empty a queue.
                while len(running) < job.downloads_in_flight and (chunk := next(waiting, None)) is not None:
                    running.add(workers.submit(apart.run, chunk, work))
                if not running:
                    return
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()

    def _candidates(self, job: Job, chunks: Sequence[Chunk], apart: Apart) -> Iterator[Outcome]:
        work = _fused(job) if job.fused else _in_turn(job)
        with own_threads():
            for chunk in chunks:
                yield apart.run(chunk, work)


def _fused(job: Job) -> Callable[[Chunk], Outcome]:
    both = FusedWork(job)
    return lambda chunk: both(chunk.chunk_id)


def _in_turn(job: Job) -> Callable[[Chunk], Outcome]:
    caption, score = CaptionWork(job), FilterWork(job)

    def work(chunk: Chunk) -> Outcome:
        outcome, table = caption(chunk.chunk_id)
        return outcome if table is None else score(chunk.chunk_id, table)

    return work
