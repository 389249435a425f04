"""`capfilt verify`: is a run folder what it was when it was made? Every file read again, a few rows made again.

Changes nothing; says of each file that differs what was expected, what was found and which command mends it.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from capfilt.config.pipeline import Pipeline
from capfilt.errors import OutputError, RunStateError
from capfilt.plan import Plan, make_plan
from capfilt.run import files, index
from capfilt.run.build import Job
from capfilt.run.commit import Footer
from capfilt.run.context import resuming
from capfilt.run.jobs import candidates_job, pool_job
from capfilt.run.lease import Lease
from capfilt.run.progress import RunProgress
from capfilt.run.quarantine import Quarantine, mark_path
from capfilt.run.rederive import rederive, sample
from capfilt.run.scratch import tree
from capfilt.run.state import limit_of, version_warnings
from capfilt.run.verify_files import Difference, Seen, check_chunks, check_dataset, check_steps, check_strangers


@dataclass
class Verified:
    """What was looked at, what differs, and what is worth knowing though it is no fault."""

    output: str
    files: int = 0
    rows: int = 0  # made again
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(pipeline: Pipeline, *, rows: int, seed: int, progress: RunProgress) -> Verified:
    """Check the run in `pipeline.output`.

    Args:
        pipeline: The run's own config, `output` being where it lies.
        rows: How many rows of each round to caption and score again.
        seed: Which ones.

    Raises:
        RunStateError: If the folder is no run, or a driver works on it.
    """
    output = pipeline.output
    known = index.load(output)
    if known is None:
        raise RunStateError(f"{output}: expected a run that has begun its pool, found no inputs.parquet. Start capfilt run")
    limit = limit_of(output)
    plan = make_plan(pipeline, known, limit=limit)
    seen, result = Seen(output, resuming(output, limit)), Verified(output)
    with ExitStack() as stack:
        try:
            stack.enter_context(Lease(output))
        except OutputError:
            seen.notes.append(f"{output} cannot be written: looked at without a lease")
        scored: list[tuple[Job, dict[str, int]]] = []
        if pipeline.read is not None:  # else the run only trains: no pool, and no round works on it
            scored = _pool_and_rounds(seen, result, plan, pipeline, progress)
        result.differences += check_steps(seen)
        for folder, advice in _datasets(seen):
            result.differences += check_dataset(seen, folder, advice)
        result.differences += check_strangers(seen)
        result.files = seen.files
        result.notes = [*version_warnings(output), *seen.notes]
        for job, chunks in scored:
            _make_again(seen, result, job, sample(chunks, rows, seed), progress)
    return result


def _pool_and_rounds(
    seen: Seen, result: Verified, plan: Plan, pipeline: Pipeline, progress: RunProgress
) -> list[tuple[Job, dict[str, int]]]:
    """All chunk files; of each round what can be made again, as `_round` gives it."""
    with progress.stage("verify files", len(plan.chunks), "chunks") as shown:
        pool = pool_job(pipeline, plan.settings)
        good = _chunks(seen, result, pool, {chunk.chunk_id: chunk.rows for chunk in plan.chunks})
        shown.advance(len(plan.chunks), files=seen.files)
    scored = [_round(seen, result, plan, pipeline, number, pool, good) for number in _rounds(pipeline)]
    return [found for found in scored if found is not None]


def _chunks(
    seen: Seen, result: Verified, job: Job, rows: Mapping[str, int], made_from: Mapping[str, str] | None = None
) -> dict[str, Footer]:
    """The chunks of a job that are as they should be."""
    good: dict[str, Footer] = {}
    for told in check_chunks(seen, job, rows, made_from):
        if isinstance(told, Difference):
            result.differences.append(told)
        else:
            good[told.chunk_id] = told
    return good


def _round(
    seen: Seen, result: Verified, plan: Plan, pipeline: Pipeline, number: int, pool: Job, good: dict[str, Footer]
) -> tuple[Job, dict[str, int]] | None:
    """The candidates of one round; what can be made again: the job, and healthy rows of chunks whose files are good."""
    job = candidates_job(pipeline, plan.settings, number, pool.fingerprint)
    mark = files.get_json(mark_path(job))
    if not isinstance(mark, dict):
        return None
    made_from = {name: footer.sha256 for name, footer in good.items()}
    entered = {chunk.chunk_id: chunk.rows for chunk in plan.chunks if chunk.chunk_id not in Quarantine(pool).chunk_ids}
    scored = _chunks(seen, result, job, entered, made_from)
    if mark.get("fingerprint") != job.fingerprint:
        result.differences.append(
            Difference(
                job.name,
                f"settings and models with fingerprint {mark.get('fingerprint')}",
                f"{job.fingerprint}: a model is another, or is not there",
                f"put the models back, or {seen.command} --from round-{number}/caption",
            )
        )
        return None
    whole = {name: footer for name, footer in scored.items() if footer.made_from == made_from.get(name)}
    return job, {name: good[name].counts.get("ok", 0) for name in whole}


def _make_again(seen: Seen, result: Verified, job: Job, chosen: dict[str, list[int]], progress: RunProgress) -> None:
    count = sum(len(places) for places in chosen.values())
    shrunk = {line["chunk_id"] for line in files.lines(seen.output, "memory") if line.get("phase") == job.name}
    with progress.stage(f"verify {job.name}", count) as shown:
        result.differences += rederive(job, chosen, shrunk, f"{seen.command} --from round-{job.round_number}/caption")
        result.rows += count
        shown.advance(count)
    halved = sorted(shrunk & chosen.keys())
    if halved:
        result.notes.append(f"{job.name}: {len(halved)} sampled chunk(s) had halved model batches; compared within a tolerance")


def _rounds(pipeline: Pipeline) -> range:
    return range(1, pipeline.rounds + 1) if pipeline.caption is not None else range(0)


def _datasets(seen: Seen) -> Iterator[tuple[str, str]]:
    """Folders with a manifest, relative to the run folder, and what makes each anew."""
    begin = len(seen.output.rstrip("/")) + 1
    for path in (address[begin:] for address in tree(seen.output)):
        if found := re.fullmatch(r"(round-\d+)/dataset/manifest\.json", path):
            yield f"{found[1]}/dataset", f"{seen.command} --from {found[1]}/write"
        elif found := re.fullmatch(r"(round-\d+/views/([^/]+)/dataset)/manifest\.json", path):
            yield found[1], f"capfilt select {shlex.quote(seen.output)} --name {found[2]} --write"
