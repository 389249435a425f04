"""A pass over the chunks on the local executor: what is kept, retried, quarantined and continued."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capfilt.config.pipeline import Pipeline
from capfilt.errors import ContractError, FailureBudgetError
from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.local_executor import LocalExecutor
from capfilt.run.phase import Passed, run_chunks
from capfilt.run.progress import SilentProgress
from capfilt.run.work import Outcome

LENIENT = "max_failure_rate: {caption: 0.5}"


class Killed(BaseException):
    """The driver dies here."""


class DyingExecutor(LocalExecutor):
    """Ends the driver after `lives` outcomes."""

    def __init__(self, lives: int) -> None:
        self._lives = lives

    def run(self, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]:
        for outcome in super().run(job, chunks):
            if self._lives == 0:
                raise Killed
            self._lives -= 1
            yield outcome


def pass_over(pipeline: Pipeline, chunks: list[Chunk], executor: LocalExecutor | None = None) -> Passed:
    job = Job("candidates", pipeline, "fp", 1)
    healthy = {chunk.chunk_id: 3 for chunk in chunks}
    return run_chunks(executor or LocalExecutor(), job, chunks, healthy, title="t", command="again", progress=SilentProgress())


def bytes_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "round-1" / "candidates").iterdir())}


@pytest.fixture
def make(tmp_path: Path, no_torch: None, pipeline_of: Any, make_pool: Callable[[Path], list[Chunk]]) -> Callable[..., Any]:
    def made(name: str = "run", **kwargs: str) -> tuple[Pipeline, list[Chunk]]:
        return pipeline_of(tmp_path / name, **kwargs), make_pool(tmp_path / name)

    return made


def test_every_row_of_the_pool_is_in_the_candidates(make: Callable[..., Any], tmp_path: Path) -> None:
    passed = pass_over(*make())
    assert passed.counts == {"ok": 15, "download_failed": 5}
    table = pq.read_table(tmp_path / "run" / "round-1" / "candidates")
    assert table.num_rows == 20
    assert [len(texts or []) for texts in table["captions"].to_pylist()] == [2, 2, 2, 0] * 5
    assert table["embedding"].null_count == 5


def test_a_chunk_that_raises_is_retried_then_quarantined_and_the_run_goes_on(make: Callable[..., Any], tmp_path: Path) -> None:
    passed = pass_over(*make(options="{boom: 40}", resources=LENIENT))
    assert passed.left_out == ("0000000000000001",)
    assert len(passed.ok_rows) == 4
    (line,) = files.lines(str(tmp_path / "run"), "quarantine")
    assert (line["stage"], line["attempts"]) == ("caption", 3)
    assert line["error"].startswith("RuntimeError: boom")
    assert line["at"] == "row 0000000000000001-000001", "found by halving the batch that was at work"


def test_over_the_budget_the_run_ends_and_the_same_command_retries_just_that_chunk(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipeline, chunks = make(options="{boom: 140}")
    with pytest.raises(FailureBudgetError, match=r"retry just what failed: capfilt retry .*run --quarantined && again"):
        pass_over(pipeline, chunks)
    done = bytes_of(tmp_path / "run")
    assert len(done) == 4
    import capfilt_fakes

    asked: list[int] = []
    monkeypatch.setattr(capfilt_fakes.Captioner, "__init__", lambda self, boom: setattr(self, "boom", -1))
    monkeypatch.setattr(capfilt_fakes.Captioner, "die", -1, raising=False)
    monkeypatch.setattr(capfilt_fakes.Captioner, "hog", -1, raising=False)
    monkeypatch.setattr(capfilt_fakes.Captioner, "bug", -1, raising=False)
    caption = capfilt_fakes.Captioner.caption

    def counted(self: Any, images: Any, *, seeds: Any) -> Any:
        asked.append(len(images))
        return caption(self, images, seeds=seeds)

    monkeypatch.setattr(capfilt_fakes.Captioner, "caption", counted)
    assert pass_over(pipeline, chunks).left_out == ()
    assert sum(asked) == 3
    assert done.items() <= bytes_of(tmp_path / "run").items()


def test_a_chunk_left_out_within_the_budget_stays_out(make: Callable[..., Any]) -> None:
    pipeline, chunks = make(options="{boom: 40}", resources=LENIENT)
    first = pass_over(pipeline, chunks)

    class Forbidden(LocalExecutor):
        def run(self, job: Job, chunks: Sequence[Chunk]) -> Iterator[Outcome]:
            raise AssertionError("nothing was left to do")

    assert pass_over(pipeline, chunks, Forbidden()) == first


def test_a_bug_ends_the_run_at_once_with_its_own_class(make: Callable[..., Any]) -> None:
    with pytest.raises(ContractError, match="a bug"):
        pass_over(*make(options="{bug: 0}", resources=LENIENT))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives=st.lists(st.integers(0, 3), max_size=4), wave=st.integers(1, 6), torn=st.none() | st.integers(0, 4))
def test_whatever_was_killed_the_files_are_the_same(
    make: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    lives: list[int],
    wave: int,
    torn: int | None,
) -> None:
    calm = tmp_path / "calm"
    if not calm.exists():
        pass_over(*make("calm"))
    name = tmp_path_factory.mktemp("run").name
    pipeline, chunks = make(name, resources=f"chunks_per_wave: {wave}")
    for n in lives:
        try:
            pass_over(pipeline, chunks, DyingExecutor(n))
        except Killed:
            continue
    written = sorted((tmp_path / name / "round-1" / "candidates").glob("*.parquet"))
    if torn is not None and torn < len(written):
        written[torn].write_bytes(written[torn].read_bytes()[:-7])
    pass_over(pipeline, chunks)
    assert {k: v for k, v in bytes_of(tmp_path / name).items() if not k.endswith(".torn")} == bytes_of(calm)
