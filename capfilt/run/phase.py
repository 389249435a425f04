"""One pass over the chunks: what is committed stays, the rest goes to the executor in waves, what fails for good is set aside.

Knows neither the stages nor the machine they run on.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.funnel import Funnel
from capfilt.run.ledger import Ledger
from capfilt.run.local_executor import Executor
from capfilt.run.progress import RunProgress
from capfilt.run.quarantine import Quarantine
from capfilt.run.work import Outcome, restore


@dataclass(frozen=True)
class Passed:
    """Rows with status ok and sha256 of the file by chunk id, for every committed chunk; `left_out` are the quarantined ones."""

    ok_rows: dict[str, int]
    sha256: dict[str, str]
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
    made_from: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
) -> Passed:
    """Bring every chunk to a committed file, or to the quarantine.

    A chunk that was left out by a pass that ended within its budget stays out: what follows was built without it.

    Args:
        healthy: Rows that enter, by chunk id.
        command: That continues the run; told when it must end.
        made_from: Of candidates, the sha256 of the pool's chunks; files made from others are made anew.
        only: Chunks to try, also those left out; None for all that are not done and not left out.

    Raises:
        FailureBudgetError: If more failed than the budget allows.
    """
    run = job.pipeline.output
    ledger = Ledger(job.folder, job.fingerprint, redo=job.name.replace("/candidates", "/caption"), made_from=made_from)
    done = {name: footer for name, footer in ledger.done().items() if name in healthy}
    quarantine = Quarantine(job)
    quarantine.keep(healthy.keys() - done.keys())
    funnel = Funnel(job, healthy, command)
    for footer in done.values():
        funnel.add(footer.counts)
    ok_rows = {name: footer.counts.get("ok", 0) for name, footer in done.items()}
    sha256 = {name: footer.sha256 for name, footer in done.items()}
    wanted = set(only) if only is not None else healthy.keys() - (quarantine.chunk_ids if quarantine.is_closed else set())
    todo = [chunk for chunk in chunks if chunk.chunk_id in wanted and chunk.chunk_id not in done]
    texts = believed = 0
    if todo:
        with progress.stage(title, sum(healthy.get(chunk.chunk_id, 0) for chunk in todo)) as shown:
            size = job.pipeline.resources.chunks_per_wave
            for start in range(0, len(todo), size):
                for outcome in executor.run(job, todo[start : start + size]):
                    if outcome.fatal is not None:
                        raise restore(outcome)
                    if outcome.batch is not None:
                        files.append_line(run, "memory", {"phase": job.name, **_told(outcome, "batch")})
                        progress.note(f"{title}: out of GPU memory, batch {outcome.batch} in chunk {outcome.chunk_id}")
                    if outcome.error is not None:
                        quarantine.add(outcome.chunk_id, reopen=only is None)
                        funnel.lose(outcome)
                        files.append_line(run, "quarantine", {"phase": job.name, **asdict(outcome)})
                        where = f" at {outcome.at}" if outcome.at else ""
                        progress.note(f"{title}: chunk {outcome.chunk_id} is quarantined{where}: {outcome.error}")
                    else:
                        quarantine.release(outcome.chunk_id)
                        funnel.add(outcome.counts)
                        ok_rows[outcome.chunk_id] = outcome.counts.get("ok", 0)
                        sha256[outcome.chunk_id] = outcome.sha256
                    funnel.check()
                    texts, believed = texts + outcome.texts, believed + outcome.believed
                    facts = {"texts_kept": believed / texts} if texts else {"kept": funnel.kept_share}
                    shown.advance(healthy.get(outcome.chunk_id, 0), **facts)
    funnel.check()
    if only is None:
        quarantine.close()
    return Passed(ok_rows, sha256, dict(funnel.counts), tuple(sorted(quarantine.chunk_ids)))


def _told(outcome: Outcome, *names: str) -> dict[str, object]:
    facts = asdict(outcome)
    return {name: facts[name] for name in ("chunk_id", "stage", *names)}
