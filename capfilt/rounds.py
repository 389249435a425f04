"""The outer loop: pool, round 0, rounds 1 … N, report. `run_pipeline` begins a run or continues it.

Says in which order things happen and what each is made from; the work is done by the rooms below, imported when it is their turn.
"""

import shlex
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, assert_never

from capfilt.config.pipeline import Pipeline
from capfilt.config.round import MedModel, TrainedModel
from capfilt.errors import FailureBudgetError, Interrupted
from capfilt.plan import find_stage, make_plan, plan_stages
from capfilt.run import files, index
from capfilt.run.build import Job
from capfilt.run.context import Context
from capfilt.run.decide import Scored, decide
from capfilt.run.lease import Lease
from capfilt.run.ledger import Ledger
from capfilt.run.local_executor import Executor, LocalExecutor
from capfilt.run.phase import Passed, run_chunks
from capfilt.run.planning import done_files, wanted_columns
from capfilt.run.progress import RunProgress, make_progress
from capfilt.run.state import check, record, redo_from, start_fresh
from capfilt.run.steps import Steps, key_of, model_identity
from capfilt.run.train import train


@dataclass
class RunResult:
    """Where a run ended. `primary` is each evaluated round's one number; `report` is None where the run stopped before."""

    output: str
    counts: dict[str, int] = field(default_factory=dict)  # rows of the pool by status
    primary: dict[int, float] = field(default_factory=dict)
    left_out: int = 0  # quarantined chunks
    report: str | None = None

    def __str__(self) -> str:
        rows = sum(self.counts.values())
        lines = [f"{self.output}: {self.counts.get('ok', 0):,} of {rows:,} rows have a usable picture"]
        lines += [f"round {number}: primary {value:.4f}" for number, value in sorted(self.primary.items())]
        if self.left_out:
            lines.append(f"{self.left_out} chunk(s) are quarantined: see {files.join(self.output, 'events', 'quarantine.jsonl')}")
        return "\n".join(lines + ([f"report: {self.report}"] if self.report else []))


def run_pipeline(
    pipeline: Pipeline,
    *,
    source: Path | None = None,
    until: str | None = None,
    start_from: str | None = None,
    fresh: bool = False,
    limit: int | None = None,
    progress: RunProgress | None = None,
) -> RunResult:
    """Run `pipeline` in its run folder; what is done there already is kept.

    Args:
        source: The pipeline file; told in the command that continues the run.
        until: Stage after which to stop, `STAGE` or `round-N/STAGE`; without a round, the first after round 0.
        start_from: Stage from which on everything is made anew.
        fresh: Begin again.
        limit: The first rows only. The run folder must be another than the whole run's; `load_pipeline` sees to that.

    Raises:
        RunStateError: If the folder belongs to other settings or inputs, or another driver works on it.
        FailureBudgetError: If too many rows failed; what was done is kept.
        Interrupted: After Ctrl-C; what was done is kept.
    """
    progress = progress or make_progress()
    command = f"capfilt run {shlex.quote(str(source or pipeline.name))}" + (f" --limit {limit}" if limit is not None else "")
    try:
        with ExitStack() as stack:
            stack.enter_context(Lease(pipeline.output))
            _clear(pipeline, limit, start_from, fresh)
            executor = make_executor(pipeline)
            stack.callback(executor.close)
            if _has_chunks_to_do(pipeline):
                executor.start()
            context = _begin(pipeline, limit, progress, command)
            last = context.plan.stages[-1 if until is None else find_stage(context.plan.stages, until, "--until")].unit_label
            line = _Line(context, executor, RunResult(pipeline.output))
            for label in line.go():
                if label == last:
                    break
            return line.result
    except KeyboardInterrupt:
        raise Interrupted(f"{pipeline.output}: interrupted; what was done is kept. Continue with: {command}") from None


def make_executor(pipeline: Pipeline) -> Executor:
    match pipeline.resources.executor:
        case "local":
            return LocalExecutor()
        case "ray":
            from capfilt.run.ray_executor import RayExecutor

            return RayExecutor(pipeline.resources, pipeline.output)
        case _ as unreachable:
            assert_never(unreachable)


def _clear(pipeline: Pipeline, limit: int | None, start_from: str | None, fresh: bool) -> None:
    """Check that the run folder is this pipeline's; delete what is to be made anew."""
    if fresh:
        start_fresh(pipeline.output)
    stages = plan_stages(pipeline, 1, {})
    check(pipeline, stages, limit, start_from)
    if start_from is not None:
        redo_from(pipeline.output, stages, start_from)


def _has_chunks_to_do(pipeline: Pipeline) -> bool:
    """As far as the last plan tells: a run that only has to train goes without an executor's start."""
    before = files.get_json(files.join(pipeline.output, "plan.json")) or {}
    stages = plan_stages(pipeline, before.get("chunks", 1), done_files(pipeline, plan_stages(pipeline, 1, {})))
    return any(stage.unit in ("pool", "candidates") and stage.done < stage.total for stage in stages)


def _begin(pipeline: Pipeline, limit: int | None, progress: RunProgress, command: str) -> Context:
    """Small web, index and plan; the run folder is marked as this pipeline's."""
    output, steps = pipeline.output, Steps(pipeline.output)
    if pipeline.miniweb is not None:
        from capfilt.miniweb.build import build

        folder = files.join(output, "miniweb")
        if not files.exists(folder):
            progress.note(f"small web: drawing {pipeline.miniweb.pictures:,} pictures")
        with steps.timed("miniweb"):
            build(pipeline.miniweb, Path(folder), seed=pipeline.seed)
    with steps.timed("index"):
        found = index.extend(index.load(output), index.scan(pipeline.read.paths, wanted_columns(pipeline)))
        plan = make_plan(pipeline, found, limit=limit)
        for warning in record(pipeline, plan):
            progress.note(warning)
        index.save(output, found)
    return Context(pipeline, plan, steps, progress, command)


@dataclass
class _Line:
    """The straight line; `go` yields the label of every unit that is done, so that the caller may stop after any."""

    context: Context
    executor: Executor
    result: RunResult

    def go(self) -> Iterator[str]:
        context, pipeline = self.context, self.context.pipeline
        job, pool = self._pool()
        yield "pool"
        pool_files = context.chunk_files("pool", pool.chunk_ids)
        pool_key = key_of("pool", job.fingerprint, pool.chunk_ids)
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
                yield from decide(context, scored, keys)
                if "write" in keys:
                    shards = files.listing(context.round_path(number, "dataset", "parquet"), suffix=".parquet")
                    web, kind, web_key = tuple(shards), "dataset", keys["write"]
            yield from train(context, number, web=web, web_kind=kind, web_key=web_key, scored=scored, keys=keys)
            metrics = files.get_json(context.round_path(number, "metrics.json")) or {}
            value = (metrics.get("primary") or {}).get("value")
            if value is not None and "evaluate" in keys:
                self.result.primary[number] = value
        self._report()
        yield "report"

    def _pool(self) -> tuple[Job, Passed]:
        context, pipeline = self.context, self.context.pipeline
        settings = {name: context.plan.settings.get(name) for name in ("read", "download", "screen", "miniweb")}
        read = context.plan.settings["read"]
        settings["read"] = {name: value for name, value in read.items() if name != "paths"}  # chunk ids hold them
        job = Job("pool", pipeline, key_of("pool", settings))
        healthy = {chunk.chunk_id: chunk.rows for chunk in context.plan.chunks}
        done = Ledger(job.folder, job.fingerprint, redo="read").done()
        with context.steps.timed("pool"), ExitStack() as stack:
            if healthy.keys() - done.keys():
                job = self._serve(stack, job)
            passed = run_chunks(
                self.executor, job, context.plan.chunks, healthy, title="pool", command=context.command, progress=context.progress
            )
        self.result.counts, self.result.left_out = passed.counts, len(passed.left_out)
        if not passed.counts.get("ok"):
            found = ", ".join(f"{count:,} {status}" for status, count in sorted(passed.counts.items())) or "no row"
            raise FailureBudgetError(
                f"pool: expected at least one usable picture, found {found}. The rows' `error` in {job.folder} says why. "
                f"When the cause is mended, run: {context.command} --from download"
            )
        return job, passed

    def _serve(self, stack: ExitStack, job: Job) -> Job:
        """`job` with the addresses to connect to; the small web answers as long as `stack` is open."""
        pipeline = self.context.pipeline
        connect_to = dict(pipeline.download.connect_to)
        if pipeline.miniweb is not None:
            from capfilt.miniweb.server import MiniwebServer

            server = stack.enter_context(MiniwebServer(pipeline.miniweb, Path(self.context.path("miniweb")), pipeline.seed))
            connect_to = {host: server.address if to == "miniweb" else to for host, to in connect_to.items()}
        return Job(job.kind, pipeline, job.fingerprint, connect_to=connect_to)

    def _candidates(self, number: int, pool: Passed, pool_fingerprint: str) -> Scored:
        context = self.context
        pipeline, captioner, scorer = self._models(number)
        sections: list[Any] = [context.plan.settings.get(name) for name in ("caption", "filter", "seed")]
        models = [model_identity(captioner), model_identity(scorer), *self._checkpoints(pipeline)]
        job = Job(
            "candidates", pipeline, key_of("candidates", pool_fingerprint, number, sections, models), number, captioner, scorer
        )
        chunks = [chunk for chunk in context.plan.chunks if chunk.chunk_id in pool.ok_rows]
        with context.steps.timed(job.name):
            passed = run_chunks(
                self.executor,
                job,
                chunks,
                pool.ok_rows,
                title=f"round {number} caption, filter",
                command=context.command,
                progress=context.progress,
            )
        self.result.left_out += len(passed.left_out)
        return Scored(
            number,
            context.chunk_files(job.name, passed.chunk_ids),
            context.chunk_files("pool", pool.chunk_ids),
            key_of(job.name, job.fingerprint, passed.chunk_ids),
            scorer,
            pipeline,
        )

    def _models(self, number: int) -> tuple[Pipeline, str | None, str | None]:
        """The pipeline with this round's models, and the folders that `kind: trained` stands for.

        From round 2 on, published checkpoints give way to what the round before fine-tuned.
        """
        pipeline = self.context.pipeline
        assert pipeline.caption is not None
        caption, scorer = pipeline.caption, pipeline.filter
        if number >= 2 and isinstance(caption.captioner, MedModel):
            caption = caption.model_copy(update={"captioner": TrainedModel(kind="trained")})
        if number >= 2 and scorer is not None and isinstance(scorer.filter, MedModel):
            scorer = scorer.model_copy(update={"filter": TrainedModel(kind="trained")})

        def folder(role: str, model: object) -> str | None:
            return self.context.round_path(number - 1, "models", role) if isinstance(model, TrainedModel) else None

        return (
            pipeline.model_copy(update={"caption": caption, "filter": scorer}),
            folder("captioner", caption.captioner),
            folder("filter", scorer.filter if scorer is not None else None),
        )

    @staticmethod
    def _checkpoints(pipeline: Pipeline) -> list[str | None]:
        named = [pipeline.caption and pipeline.caption.captioner, pipeline.filter and pipeline.filter.filter]
        return [model_identity(model.checkpoint) if isinstance(model, MedModel) else None for model in named]

    def _report(self) -> None:
        from capfilt.report import write_report

        with self.context.steps.timed("report"):
            self.result.report = str(write_report(Path(self.context.pipeline.output)))
        if self.context.pipeline.report.open:
            webbrowser.open(Path(self.result.report).resolve().as_uri())
