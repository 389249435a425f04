"""Runs chunks in this process, one after the other; downloads overlap, as they wait for hosts and not for the CPU.

Same work, same files as on Ray; knows nothing about what is done already.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol

from capfilt.plan import Chunk
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
        return self._pool(job, chunks) if job.kind == "pool" else self._candidates(job, chunks)

    def close(self) -> None:
        pass

    def _pool(self, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]:
        work = PoolWork(job)
        waiting = iter(chunks)
        with ThreadPoolExecutor(job.downloads_in_flight, "capfilt-chunk") as workers:
            running: set[Future[Outcome]] = set()
            while True:
                # Only as many as are at work are handed over: an interrupt must not have to empty a queue.
                while len(running) < job.downloads_in_flight and (chunk := next(waiting, None)) is not None:
                    running.add(workers.submit(work, chunk))
                if not running:
                    return
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield future.result()

    def _candidates(self, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]:
        if job.fused:
            both = FusedWork(job)
            with own_threads():
                yield from (both(chunk.chunk_id) for chunk in chunks)
            return
        caption, score = CaptionWork(job), FilterWork(job)
        with own_threads():
            for chunk in chunks:
                outcome, table = caption(chunk.chunk_id)
                yield outcome if table is None else score(chunk.chunk_id, table)
