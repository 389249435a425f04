"""Which chunks of a job are set aside because they failed for good: steps/<job>.json. `capfilt retry RUN --quarantined` reads it.

Closed once a pass has ended within its failure budget: what follows was built without those chunks, so they stay out until asked
for. Open before that: the next pass tries them again. Knows nothing about why a chunk failed.
"""

from collections.abc import Iterable

from capfilt.run import files
from capfilt.run.build import Job


class Quarantine:
    """Chunk ids of one job, kept in its file from the moment they fail."""

    def __init__(self, job: Job) -> None:
        self._path = mark_path(job)
        self._fingerprint = job.fingerprint
        mark = files.get_json(self._path)
        is_ours = isinstance(mark, dict) and mark.get("fingerprint") == job.fingerprint
        self.is_closed = is_ours and mark.get("state", "closed") == "closed"
        self.chunk_ids: set[str] = set(mark["left_out"]) if is_ours else set()

    def keep(self, known: Iterable[str]) -> None:
        """Forget all others: chunks that are done by now, or no longer in the run."""
        self.chunk_ids &= set(known)

    def add(self, chunk_id: str, *, reopen: bool) -> None:
        """`reopen` in a pass over all chunks, whose budget is still to be judged."""
        self.chunk_ids.add(chunk_id)
        self.is_closed = self.is_closed and not reopen
        self._write()

    def release(self, chunk_id: str) -> None:
        if chunk_id in self.chunk_ids:
            self.chunk_ids.remove(chunk_id)
            self._write()

    def close(self) -> None:
        self.is_closed = True
        self._write()

    def _write(self) -> None:
        state = "closed" if self.is_closed else "open"
        content = {"fingerprint": self._fingerprint, "state": state, "left_out": sorted(self.chunk_ids)}
        if files.get_json(self._path) != content:
            files.put_json(self._path, content)


def mark_path(job: Job) -> str:
    return files.join(job.pipeline.output, "steps", job.name.replace("/", "-") + ".json")
