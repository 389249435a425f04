"""One pass over the chunks: what is committed stays, the rest goes to the executor in waves, what fails for good is quarantined.

Knows neither the stages nor the machine they run on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.funnel import Funnel
from capfilt.run.ledger import Ledger
from capfilt.run.local_executor import Executor
from capfilt.run.progress import RunProgress
from capfilt.run.work import restore


@dataclass(frozen=True)
class Passed:
    """Rows with status ok by chunk id, for every committed chunk; `left_out` are the quarantined ones."""

    ok_rows: dict[str, int]
    counts: dict[str, int]
    left_out: tuple[str, ...]

    @property
    def chunk_ids(self) -> list[str]:
        return sorted(self.ok_rows)


def run_chunks(
    executor: Executor,
    job: Job,
    chunks: Sequence[Chunk],
    healthy: dict[str, int],
    *,
    title: str,
    command: str,
    progress: RunProgress,
) -> Passed:
    """Bring every chunk to a committed file, or to the quarantine.

    A chunk that was left out by a pass that ended within its budget stays out: what follows was built without it.

    Args:
        healthy: Rows that enter, by chunk id.
        command: That continues the run; told when it must end.

    Raises:
        FailureBudgetError: If more failed than the budget allows.
    """
    run = job.pipeline.output
    ledger = Ledger(job.folder, job.fingerprint, redo=job.name.replace("/candidates", "/caption"))
    done = {name: footer for name, footer in ledger.done().items() if name in healthy}
    mark = files.join(run, "steps", job.name.replace("/", "-") + ".json")
    closed = files.get_json(mark)
    left_out: list[str] = closed["left_out"] if closed and closed.get("fingerprint") == job.fingerprint else []
    left_out = [name for name in left_out if name in healthy and name not in done]
    funnel = Funnel(job, healthy, command)
    for footer in done.values():
        funnel.add(footer.counts)
    ok_rows = {name: footer.counts.get("ok", 0) for name, footer in done.items()}
    todo = [chunk for chunk in chunks if chunk.chunk_id not in done and chunk.chunk_id not in left_out]
    texts = believed = 0
    if todo:
        with progress.stage(title, sum(healthy.get(chunk.chunk_id, 0) for chunk in todo)) as shown:
            size = job.pipeline.resources.chunks_per_wave
            for start in range(0, len(todo), size):
                for outcome in executor.run(job, todo[start : start + size]):
                    if outcome.fatal is not None:
                        raise restore(outcome)
                    if outcome.error is not None:
                        left_out.append(outcome.chunk_id)
                        funnel.lose(outcome)
                        files.append_line(run, "quarantine", {"phase": job.name, **asdict(outcome)})
                        progress.note(f"{title}: chunk {outcome.chunk_id} is quarantined: {outcome.error}")
                    else:
                        funnel.add(outcome.counts)
                        ok_rows[outcome.chunk_id] = outcome.counts.get("ok", 0)
                    funnel.check()
                    texts, believed = texts + outcome.texts, believed + outcome.believed
                    facts = {"texts_kept": believed / texts} if texts else {"kept": funnel.kept_share}
                    shown.advance(healthy.get(outcome.chunk_id, 0), **facts)
    funnel.check()
    if todo or closed is None:
        files.put_json(mark, {"fingerprint": job.fingerprint, "left_out": sorted(left_out)})
    return Passed(ok_rows, dict(funnel.counts), tuple(sorted(left_out)))
