"""The outer loop: pool, round 0, rounds 1 … N, report. `run_pipeline` begins a run or continues it.

Says in which order things happen and what each is made from; the work is done by the rooms below, imported when it is their turn.
"""

import shlex
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq

from capfilt.config.pipeline import Pipeline
from capfilt.errors import FailureBudgetError, Interrupted, Terminated
from capfilt.plan import PlannedStage, find_stage, make_plan, plan_stages
from capfilt.run import files, index
from capfilt.run.build import Job
from capfilt.run.context import Context, continuing
from capfilt.run.decide import Scored, decide, nothing_kept
from capfilt.run.jobs import candidates_job, make_executor, pool_job, serve
from capfilt.run.lease import Lease
from capfilt.run.ledger import Ledger
from capfilt.run.local_executor import Executor
from capfilt.run.pairing import paired
from capfilt.run.phase import Passed, run_chunks
from capfilt.run.place import check_place, inputs_inside
from capfilt.run.planning import done_files
from capfilt.run.preflight import check_means
from capfilt.run.progress import RunProgress, make_progress
from capfilt.run.scratch import Scratch
from capfilt.run.signals import received
from capfilt.run.state import check, readable, record, redo_from, start_fresh
from capfilt.run.steps import Steps, key_of
from capfilt.run.train import train


@dataclass
class RunResult:
    """Where a run ended. `primary` is each evaluated round's one number; `report` is None where the run stopped before."""

    output: str
    counts: dict[str, int] = field(default_factory=dict)  # rows of the pool by status
    primary: dict[int, float] = field(default_factory=dict)
    left_out: int = 0  # quarantined chunks
    nothing_kept: dict[int, str] = field(default_factory=dict)  # why, by round, where a selection kept nothing
    report: str | None = None

    def __str__(self) -> str:
        rows = sum(self.counts.values())
        pictures = f"{self.counts.get('ok', 0):,} of {rows:,} rows have a usable picture" if rows else "trained, without a pool"
        lines = [f"{self.output}: {pictures}"]
        lines += [f"round {number}: primary {value:.4f}" for number, value in sorted(self.primary.items())]
        lines += [f"round {number}: nothing is kept: {why}" for number, why in sorted(self.nothing_kept.items())]
        if self.left_out:
            again = f"capfilt retry {shlex.quote(self.output)} --quarantined"
            lines.append(f"{self.left_out} chunk(s) are quarantined (events/quarantine.jsonl says why); retry them with: {again}")
        return "\n".join(lines + ([f"report: {self.report}"] if self.report else []))


def run_pipeline(
    pipeline: Pipeline,
    *,
    source: Path | None = None,
    overrides: Sequence[str] = (),
    until: str | None = None,
    start_from: str | None = None,
    fresh: bool = False,
    limit: int | None = None,
    progress: RunProgress | None = None,
) -> RunResult:
    """Run `pipeline` in its run folder; what is done there already is kept.

    Args:
        source, overrides: The pipeline file and what `--set` changed of it; told in the command that continues the run.
        until: Stage after which to stop, `STAGE` or `round-N/STAGE`; without a round, the first after round 0.
        start_from: Stage from which on everything is made anew.
        fresh: Begin again.
        limit: The first rows only. The run folder must be another than the whole run's; `load_pipeline` sees to that.

    Raises:
        RunStateError: If the folder belongs to other settings or inputs, or another driver works on it.
        FailureBudgetError: If too many rows failed; what was done is kept.
        OutputError: If the run folder takes no more: disk full, not allowed; what was done is kept.
        ConfigError: If a GPU is asked for that is not there. Like a checkpoint that does not fit (CheckpointError) and a missing
            file of pairs (InputError), this is found before any work.
        Interrupted: After Ctrl-C (Terminated: after SIGTERM); what was done is kept.
    """
    progress = progress or make_progress()
    command = continuing(str(source or pipeline.name), overrides, limit=limit, until=until)
    check_place(pipeline.output, inputs_inside(pipeline))
    lease = Lease(pipeline.output)
    try:
        with files.writing(pipeline.output, inside=True), ExitStack() as stack:
            stack.enter_context(lease)
            _sweep(pipeline.output)
            _clear(pipeline, limit, start_from, fresh)
            stages = _stages(pipeline)
            for told in check_means(pipeline, _until(stages, until)):
                progress.note(told)
            executor = make_executor(pipeline, progress.note)
            stack.callback(executor.close)
            if any(stage.unit in ("pool", "candidates") and stage.done < stage.total for stage in stages):
                executor.start()  # a run that only has to train goes without
            context = _begin(pipeline, limit, progress, command, stack.enter_context(Scratch(pipeline.output)))
            last = context.plan.stages[-1 if until is None else find_stage(context.plan.stages, until, "--until")].unit_label
            line = _Line(context, executor, RunResult(pipeline.output))
            for label in line.go():
                if label == last:
                    break
            return line.result
    except KeyboardInterrupt:
        if lease.is_lost:
            raise lease.lost_error() from None
        kind, how = (Terminated, "terminated") if received() == signal.SIGTERM else (Interrupted, "interrupted")
        raise kind(f"{pipeline.output}: {how}; what was done is kept. Continue with: {command}") from None


def _until(stages: tuple[PlannedStage, ...], until: str | None) -> tuple[PlannedStage, ...]:
    """The stages that are asked for: what comes after `until` needs no GPU, weights or pairs yet."""
    if until is None:
        return stages
    label = stages[find_stage(stages, until, "--until")].unit_label
    return stages[: max(at for at, stage in enumerate(stages) if stage.unit_label == label) + 1]


def _sweep(output: str) -> None:
    """Delete what killed writers left half done, wherever a run writes."""
    rounds = files.listing(output, "round-")
    inner = [files.join(number, name) for number in rounds for name in ("candidates", "models")]
    for folder in (output, *(files.join(output, name) for name in ("steps", "miniweb", "pool")), *rounds, *inner):
        files.sweep(folder)


def _clear(pipeline: Pipeline, limit: int | None, start_from: str | None, fresh: bool) -> None:
    """Check that the run folder is this pipeline's; delete what is to be made anew."""
    if fresh:
        start_fresh(pipeline.output)
    stages = plan_stages(pipeline, 1, {})
    check(pipeline, stages, limit, start_from)
    if start_from is not None:
        redo_from(pipeline.output, stages, start_from)


def _stages(pipeline: Pipeline) -> tuple[PlannedStage, ...]:
    """The stages, and what is done of them as far as the last plan tells."""
    before = files.get_json(files.join(pipeline.output, "plan.json")) or {}
    return plan_stages(pipeline, before.get("chunks", 1), done_files(pipeline, plan_stages(pipeline, 1, {})))


def _begin(pipeline: Pipeline, limit: int | None, progress: RunProgress, command: str, scratch: Scratch) -> Context:
    """Small web, index and plan; the run folder is marked as this pipeline's."""
    output, steps = pipeline.output, Steps(pipeline.output)
    if pipeline.miniweb is not None:
        from capfilt.miniweb.build import build

        folder = files.join(output, "miniweb")
        if not files.exists(folder):
            progress.note(f"small web: drawing {pipeline.miniweb.pictures:,} pictures")
        with steps.timed("miniweb"):
            is_there = files.exists(folder)
            build(pipeline.miniweb, scratch.fetch("miniweb"), seed=pipeline.seed)
            if not is_there:
                scratch.send("miniweb")
    with steps.timed("index"):
        found = [] if pipeline.read is None else index.scan(pipeline.read, index.load(output))
        for file in found:
            if file.problem is not None:
                progress.note(f"{file.path} {file.problem}")
        plan = make_plan(pipeline, found, limit=limit)
        for warning in record(pipeline, plan):
            progress.note(warning)
        index.save(output, found)
    return Context(pipeline, plan, steps, progress, command, scratch)


def _causes(folder: str) -> str:
    """The three most frequent error codes of the first chunks, with their counts."""
    found: Counter[str] = Counter()
    for path in files.listing(folder, "chunk-", ".parquet")[:16]:
        with files.open_file(path) as file:
            errors = pq.read_table(file, columns=["error"])["error"].drop_null().to_pylist()
        found.update(error.partition(":")[0] for error in errors)
    return ", ".join(f"{code} {count:,}" for code, count in found.most_common(3)) or "no error"


@dataclass
class _Line:
    """The straight line; `go` yields the label of every unit that is done, so that the caller may stop after any."""

    context: Context
    executor: Executor
    result: RunResult

    def go(self) -> Iterator[str]:
        context, pipeline = self.context, self.context.pipeline
        if pipeline.read is None:
            yield from train(context, 1, web=(), web_kind="pool", web_key="", scored=None, keys={})
            self._note_primary(1)
            self._report()
            yield "report"
            return
        job, pool = self._pool()
        yield "pool"
        pool_files = context.chunk_files("pool", pool.chunk_ids)
        pool_key = key_of("pool", job.fingerprint, pool.sha256)
        for number in range(0 if pipeline.has_round_0 else 1, pipeline.rounds + 1):
            keys: dict[str, str] = {}
            scored: Scored | None = None
            web, web_key = pool_files, pool_key
            kind: Literal["pool", "dataset"] = "pool"
            if number > 0 and pipeline.caption is not None:
                scored = self._candidates(number, pool, job.fingerprint)
                yield f"round-{number}/candidates"
                if number == pipeline.rounds:
                    self.executor.close()  # no more chunks: its memory is the training's
                for label in decide(context, scored, keys):
                    if label.endswith("/select") and (why := nothing_kept(context.round_path(number))):
                        self.result.nothing_kept[number] = why
                    yield label
                if "write" in keys:
                    shards = files.listing(context.round_path(number, "dataset", "parquet"), suffix=".parquet")
                    web, kind, web_key = tuple(shards), "dataset", keys["write"]
            yield from train(context, number, web=web, web_kind=kind, web_key=web_key, scored=scored, keys=keys)
            if "evaluate" in keys:
                self._note_primary(number)
        self._report()
        yield "report"

    def _note_primary(self, number: int) -> None:
        metrics = files.get_json(self.context.round_path(number, "metrics.json")) or {}
        value = (metrics.get("primary") or {}).get("value")
        if value is not None:
            self.result.primary[number] = value

    def _pool(self) -> tuple[Job, Passed]:
        context, pipeline = self.context, self.context.pipeline
        job = pool_job(pipeline, context.plan.settings)
        healthy = {chunk.chunk_id: chunk.rows for chunk in context.plan.chunks}
        done = Ledger(job.folder, job.fingerprint, redo="read").done()
        with context.steps.timed("pool"), ExitStack() as stack:
            if healthy.keys() - done.keys():
                job = serve(stack, job)
            passed = run_chunks(
                self.executor, job, context.plan.chunks, healthy, title="pool", command=context.command, progress=context.progress
            )
        files.remove(files.join(pipeline.output, "steps", "retry-quarantined.json"))  # what it changed has been gone by
        self.result.counts, self.result.left_out = passed.counts, len(passed.left_out)
        if not passed.counts.get("ok"):
            found = ", ".join(f"{count:,} {status}" for status, count in sorted(passed.counts.items())) or "no row"
            raise FailureBudgetError(
                f"pool: expected at least one usable picture, found {found}; most often: {_causes(job.folder)}. The rows' "
                f"`error` in {job.folder} says more. When the cause is mended: capfilt retry {shlex.quote(pipeline.output)} "
                f"--status download_failed && {context.command}. With other settings: {context.command} --from download"
            )
        return job, passed

    def _candidates(self, number: int, pool: Passed, pool_fingerprint: str) -> Scored:
        context = self.context
        job, pairing = paired(candidates_job(context.pipeline, context.plan.settings, number, pool_fingerprint))
        if pairing is not None and pairing.told is not None:
            context.progress.note(f"round {number}: {pairing.told}")
        chunks = [chunk for chunk in context.plan.chunks if chunk.chunk_id in pool.ok_rows]
        with context.steps.timed(job.name):
            passed = run_chunks(
                self.executor,
                job,
                chunks,
                pool.ok_rows,
                made_from=pool.sha256,
                title=f"round {number} caption, filter",
                command=context.command,
                progress=context.progress,
            )
        self.result.left_out += len(passed.left_out)
        return Scored(
            number,
            context.chunk_files(job.name, passed.chunk_ids),
            context.chunk_files("pool", pool.chunk_ids),
            key_of(job.name, job.fingerprint, passed.sha256),
            job.scorer,
            job.pipeline,
            pairing,
        )

    def _report(self) -> None:
        from capfilt.report import write_remote_report, write_report

        output, cards = self.context.pipeline.output, self.context.pipeline.report.cards
        with self.context.steps.timed("report"), readable(output):
            if self.context.scratch.is_remote:
                self.result.report = write_remote_report(output, cards=cards)
            else:
                self.result.report = str(write_report(files.local(output), cards=cards))
