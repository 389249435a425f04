"""What a worker makes of a chunk: an outcome that names the rows at fault, and batches that shrank."""

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from capfilt.config.pipeline import Pipeline
from capfilt.modeling.memory import in_batches
from capfilt.plan import Chunk
from capfilt.run.build import Job
from capfilt.run.commit import chunk_path, read_footer
from capfilt.run.work import CaptionWork, FilterWork, at_fault, rows_told
from capfilt.stages.base import at_work, watched

MakePool = Callable[[Path], list[Chunk]]
IDS = [f"c-{row:06d}" for row in range(8)]


def raising(*bad: str) -> Callable[[pa.Table], pa.Table]:
    def stages(table: pa.Table) -> pa.Table:
        if set(bad) <= set(table["row_id"].to_pylist()):
            raise ValueError(bad)
        return table

    return stages


@pytest.mark.parametrize("bad", IDS)
def test_one_row_at_fault_is_found(bad: str) -> None:
    assert at_fault(raising(bad), pa.table({"row_id": IDS}), IDS) == [bad]


def test_rows_that_fail_only_together_and_a_device_that_is_lost_stay_a_range() -> None:
    table = pa.table({"row_id": IDS})
    assert at_fault(raising(IDS[0], IDS[7]), table, IDS) == IDS
    assert at_fault(raising(IDS[4], IDS[5]), table, IDS) == IDS[4:6]
    assert at_fault(raising(), table, IDS) == IDS
    assert at_fault(raising("x"), table, []) == []


def test_rows_are_told_in_words() -> None:
    assert rows_told([]) is None
    assert rows_told(IDS[:1]) == "row c-000000"
    assert rows_told(IDS) == "rows c-000000 to c-000007"


def test_every_watcher_hears_of_the_rows_at_work_and_no_one_else() -> None:
    heard: dict[str, list[Sequence[str]]] = {"outer": [], "inner": []}
    at_work(["nobody"])
    with watched(heard["outer"].append):
        at_work(["a"])
        with watched(heard["inner"].append):
            at_work(["b"])
    at_work(["nobody"])
    assert heard == {"outer": [["a"], ["b"]], "inner": [["b"]]}


@pytest.fixture
def job(tmp_path: Path, pipeline_of: Callable[..., Pipeline], no_torch: None) -> Job:
    return Job("candidates", pipeline_of(tmp_path), "f", 1)


def test_batches_that_shrank_in_either_stage_are_told_with_the_chunk(
    job: Job, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutOfMemory(RuntimeError):
        pass

    def empty_cache() -> None:
        pass

    told = types.SimpleNamespace(
        OutOfMemoryError=OutOfMemory,
        cuda=types.SimpleNamespace(empty_cache=empty_cache),
        set_num_threads=lambda threads: None,
        get_num_threads=lambda: 1,
    )
    monkeypatch.setitem(sys.modules, "torch", told)
    import capfilt_fakes

    def shrunk(whole: Callable[..., Any], most: int) -> Callable[..., Any]:
        def run(rows: range, size: int) -> None:
            if size > most:
                raise OutOfMemory

        def wrapped(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
            list(in_batches(len(images), 4, run))
            return whole(self, images, *args, **kwargs)

        return wrapped

    (chunk, *_) = make_pool(Path(job.pipeline.output))
    outcome, table = CaptionWork(job)(chunk.chunk_id)
    assert table is not None
    assert FilterWork(job)(chunk.chunk_id, table).batch is None
    monkeypatch.setattr(capfilt_fakes.Captioner, "caption", shrunk(capfilt_fakes.Captioner.caption, 2))
    monkeypatch.setattr(capfilt_fakes.Filter, "score", shrunk(capfilt_fakes.Filter.score, 1))
    outcome, table = CaptionWork(job)(chunk.chunk_id)
    assert outcome.batch == "caption 4 -> 2"
    assert table is not None
    assert FilterWork(job)(chunk.chunk_id, table).batch == "caption 4 -> 2, filter 4 -> 1"


def test_each_stage_has_its_own_threads_in_every_chunk(job: Job, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = job.pipeline.resources
    resources = own.model_copy(
        update={"caption": own.caption.model_copy(update={"threads": 4}), "filter": own.filter.model_copy(update={"threads": 2})}
    )
    job = replace(job, pipeline=job.pipeline.model_copy(update={"resources": resources}))
    import capfilt_fakes

    now: list[int] = []
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr("capfilt.run.work.limit_threads", now.append)

    def noting(name: str, whole: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            seen.append((name, now[-1]))
            return whole(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(capfilt_fakes.Captioner, "caption", noting("caption", capfilt_fakes.Captioner.caption))
    monkeypatch.setattr(capfilt_fakes.Filter, "score", noting("filter", capfilt_fakes.Filter.score))
    caption, judge = CaptionWork(job), FilterWork(job)
    for chunk in make_pool(Path(job.pipeline.output))[:2]:
        _, table = caption(chunk.chunk_id)
        assert table is not None
        judge(chunk.chunk_id, table)
    assert set(seen) == {("caption", 4), ("filter", 2)}


def test_what_travels_with_the_table_does_not_reach_the_file(job: Job, make_pool: MakePool) -> None:
    (chunk, *_) = make_pool(Path(job.pipeline.output))
    _, table = CaptionWork(job)(chunk.chunk_id)
    assert table is not None
    outcome = FilterWork(job)(chunk.chunk_id, table)
    footer = read_footer(chunk_path(job.folder, chunk.chunk_id))
    pool = read_footer(chunk_path(job.pool, chunk.chunk_id))
    assert footer is not None
    assert pool is not None
    assert (footer.sha256, footer.made_from) == (outcome.sha256, pool.sha256)
