"""`capfilt retry`: failed rows of the pool, or quarantined chunks, tried again, and nothing else.

Changes chunk files only. What was made from a changed chunk (its texts and scores, then dedup, select, write, training) is out of
date from then on: a chunk knows the sha256 of what it was made from, and the next `capfilt run` makes it anew.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import pyarrow.parquet as pq

from capfilt.config.pipeline import Pipeline
from capfilt.errors import FailureBudgetError, Interrupted, RunStateError, Terminated
from capfilt.plan import Chunk, Plan, make_plan, plan_stages
from capfilt.run import files, index
from capfilt.run.again import Again
from capfilt.run.build import Job
from capfilt.run.commit import Footer, chunk_path
from capfilt.run.context import resuming
from capfilt.run.jobs import candidates_job, make_executor, pool_job, serve
from capfilt.run.lease import Lease
from capfilt.run.ledger import Ledger
from capfilt.run.local_executor import Executor
from capfilt.run.pairing import paired
from capfilt.run.phase import run_chunks
from capfilt.run.preflight import check_connections
from capfilt.run.progress import RunProgress
from capfilt.run.quarantine import Quarantine
from capfilt.run.signals import Stopped
from capfilt.run.state import check, limit_of
from capfilt.run.work import Outcome, restore

MARK_EVERY_S = 5.0


@dataclass
class Retried:
    """What came of it. `counts` are rows by their new status, `changed` and `still` chunk ids by job; `still` failed again."""

    output: str
    next_command: str
    trains_on_pool: bool
    tried_rows: int = 0
    tried_chunks: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    changed: dict[str, list[str]] = field(default_factory=dict)
    still: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.output}: {self.tried_chunks:,} chunk(s) tried again"]
        if self.tried_rows:
            told = ", ".join(f"{count:,} {status}" for status, count in sorted(self.counts.items())) or "none"
            lines = [
                f"{self.output}: {self.tried_rows:,} row(s) in {self.tried_chunks:,} chunk(s) tried again; new answers: {told}"
            ]
        lines += [f"{job}: still quarantined: {', '.join(ids)}" for job, ids in self.still.items() if ids]
        changed = sum(len(ids) for ids in self.changed.values())
        if not changed:
            return "\n".join([*lines, "nothing has changed"])
        lines.append(f"{changed:,} chunk file(s) are new. Bring the rest up to date with: {self.next_command}")
        if self.changed.get("pool"):
            lines.append(
                "That trains round 0 anew on the larger pool, and so captions every chunk again with its models"
                if self.trains_on_pool
                else "That captions and scores the new chunks only, and makes dedup and what follows anew"
            )
        return "\n".join(lines)


def retry_rows(pipeline: Pipeline, again: Again, *, progress: RunProgress) -> Retried:
    """Try the rows that `again` names once more; a chunk is committed anew only if one of its rows has a new answer.

    Interrupted, the same call goes on behind the chunks that were through.

    Args:
        pipeline: Of a run folder, `output` being where it lies.

    Raises:
        RunStateError: If settings, inputs or chunk files are not those of the run, or another driver works on it.
        FailureBudgetError: If a chunk failed as a whole; it stays as it was.
        Interrupted: After Ctrl-C; Terminated after SIGTERM.
    """
    with _opened(pipeline, progress) as (plan, executor, result):
        job = pool_job(pipeline, plan.settings)
        known = Ledger(job.folder, job.fingerprint, redo="read").done()
        through = _Through(pipeline.output, "retry", asdict(again))
        rows = {name: _rows_to_try(job, footer, again) for name, footer in known.items() if name not in through.chunk_ids}
        todo = [chunk for chunk in plan.chunks if rows.get(chunk.chunk_id)]
        failed: dict[str, str] = {}
        with ExitStack() as stack:
            if todo:
                job = serve(stack, replace(job, again=again))
                stack.enter_context(through)
            with progress.stage(f"retry {again.status}", sum(rows[chunk.chunk_id] for chunk in todo)) as shown:
                for outcome in _outcomes(executor, job, todo):
                    name = outcome.chunk_id
                    result.tried_chunks += 1
                    result.tried_rows += rows[name]
                    if outcome.error is not None:
                        failed[name] = outcome.error
                    else:
                        is_new = outcome.sha256 != known[name].sha256
                        if is_new:
                            _count(result, known[name], outcome)
                        through.add(name, "pool" if is_new else None)
                    shown.advance(rows[name])
        if failed:
            first = next(iter(failed))
            raise FailureBudgetError(
                f"{pipeline.output}: expected every chunk to be tried again, found {len(failed)} of {result.tried_chunks} that "
                f"failed as a whole and stay as they were (first: {first}: {failed[first]}). Mend the cause and run the same "
                "command again: it tries just these"
            )
        result.changed = through.changed
        through.forget()
        return result


def retry_quarantined(pipeline: Pipeline, *, progress: RunProgress) -> Retried:
    """Try the chunks that were set aside once more: the pool's, then those of each round whose models are still the same.

    Raises:
        FailureBudgetError: If more of them fail again than the budget allows.
        RunStateError, Interrupted: As in `retry_rows`.
    """
    with _opened(pipeline, progress) as (plan, executor, result):
        pool = pool_job(pipeline, plan.settings)
        through = _Through(pipeline.output, "retry-quarantined", {})
        chunks = {chunk.chunk_id: chunk.rows for chunk in plan.chunks}
        done = _try_aside(executor, pool, plan, chunks, result, through, progress)
        made_from = {name: footer.sha256 for name, footer in done.items()}
        healthy = {name: footer.counts.get("ok", 0) for name, footer in done.items()}
        out_of_date = bool(through.changed.get("pool")) and pipeline.has_round_0
        for number in range(1, pipeline.rounds + 1):
            has_begun = files.exists(files.join(pipeline.output, "steps", f"round-{number}-candidates.json"))
            if out_of_date or not has_begun or pipeline.caption is None:
                break
            job, _ = paired(candidates_job(pipeline, plan.settings, number, pool.fingerprint))
            _try_aside(executor, job, plan, healthy, result, through, progress, made_from)
        result.changed = through.changed
        through.forget()
        return result


def _try_aside(
    executor: Executor,
    job: Job,
    plan: Plan,
    healthy: dict[str, int],
    result: Retried,
    through: "_Through",
    progress: RunProgress,
    made_from: dict[str, str] | None = None,
) -> dict[str, Footer]:
    """The quarantined chunks of one job; gives what is committed afterwards."""
    ledger = Ledger(job.folder, job.fingerprint, redo=job.name.replace("/candidates", "/caption"), made_from=made_from)
    before = ledger.done()
    aside = (Quarantine(job).chunk_ids & healthy.keys()) - before.keys()
    if not aside:
        return before
    with ExitStack() as stack:
        stack.enter_context(through)
        stack.callback(lambda: through.change(job.name, ledger.done().keys() - before.keys()))
        passed = run_chunks(
            executor,
            serve(stack, job) if job.kind == "pool" else job,
            plan.chunks,
            healthy,
            title=f"retry {job.name}",
            command=result.next_command,
            progress=progress,
            made_from=made_from,
            only=aside,
        )
    result.tried_chunks += len(aside)
    result.still[job.name] = list(passed.left_out)
    return ledger.done()


@contextmanager
def _opened(pipeline: Pipeline, progress: RunProgress) -> Iterator[tuple[Plan, Executor, Retried]]:
    """The plan as the run knows it, under the lease. No input is scanned: what was appended since is for `capfilt run`."""
    output = pipeline.output
    if pipeline.read is None:
        raise RunStateError(
            f"{output}: expected a run with a pool, found one that only trains (no `read` in its config). There are no rows to "
            "try again; the command that began it goes on with the training"
        )
    limit = limit_of(output)
    lease = Lease(output)
    try:
        with files.writing(output, inside=True), ExitStack() as stack:
            stack.enter_context(lease)
            check(pipeline, plan_stages(pipeline, 1, {}), limit, None)
            known = index.load(output)
            if known is None:
                raise RunStateError(
                    f"{output}: expected a run that has begun its pool, found no inputs.parquet. Start capfilt run"
                )
            check_connections(pipeline)
            executor = make_executor(pipeline, progress.note)
            stack.callback(executor.close)
            result = Retried(output, resuming(output, limit), pipeline.has_round_0)
            yield make_plan(pipeline, known, limit=limit), executor, result
    except KeyboardInterrupt as stop:
        if lease.is_lost:
            raise lease.lost_error() from None
        kind = Terminated if isinstance(stop, Stopped) and stop.number == signal.SIGTERM else Interrupted
        raise kind(f"{output}: stopped; what was done is kept. The same command goes on") from None


def _rows_to_try(job: Job, footer: Footer, again: Again) -> int:
    """How many rows of a chunk `again` names; the errors are read only where the counts do not tell."""
    by_status = footer.counts.get(again.status, 0)
    if not by_status or again.error is None:
        return by_status
    with files.open_file(chunk_path(job.folder, footer.chunk_id)) as file:
        return int(again.wants(pq.read_table(file, columns=["status", "error"])).sum())


def _outcomes(executor: Executor, job: Job, todo: list[Chunk]) -> Iterator[Outcome]:
    size = job.pipeline.resources.chunks_per_wave
    for start in range(0, len(todo), size):
        for outcome in executor.run(job, todo[start : start + size]):
            if outcome.fatal is not None:
                raise restore(outcome)
            yield outcome


def _count(result: Retried, before: Footer, outcome: Outcome) -> None:
    for status, count in outcome.counts.items():
        gained = count - before.counts.get(status, 0)
        if gained > 0:
            result.counts[status] += gained


class _Through:
    """Chunks that an unfinished retry is through with, and by job those that it made anew: steps/<name>.json. Entered, it is kept
    up to date on every way out."""

    def __init__(self, output: str, name: str, again: dict[str, Any]) -> None:
        self._path = files.join(output, "steps", f"{name}.json")
        self._again = again
        mark = files.get_json(self._path)
        is_ours = isinstance(mark, dict) and mark.get("again") == self._again
        self.chunk_ids: set[str] = set(mark["through"]) if is_ours else set()
        changed = mark.get("changed", {}) if is_ours else {}
        self._changed: dict[str, set[str]] = {job: set(chunk_ids) for job, chunk_ids in changed.items()}
        self._written = time.monotonic()

    @property
    def changed(self) -> dict[str, list[str]]:
        return {job: sorted(chunk_ids) for job, chunk_ids in self._changed.items()}

    def change(self, job: str, chunk_ids: Iterable[str]) -> None:
        self._changed.setdefault(job, set()).update(chunk_ids)

    def add(self, chunk_id: str, changed: str | None) -> None:
        """`changed`: the job whose file is new."""
        self.chunk_ids.add(chunk_id)
        if changed is not None:
            self.change(changed, [chunk_id])
        if time.monotonic() - self._written > MARK_EVERY_S:
            self._write()

    def forget(self) -> None:
        files.remove(self._path)

    def _write(self) -> None:
        files.put_json(self._path, {"again": self._again, "through": sorted(self.chunk_ids), "changed": self.changed})
        self._written = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._write()
