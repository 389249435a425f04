"""The bill of a whole run, from a trial on its first rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.run.bill import SMALLEST_TRIAL, _interval, estimate


@pytest.fixture
def trial(tmp_path: Path, pipeline_of: Any, pool_table: Any) -> Callable[..., Any]:
    """Makes the folder of a trial with `rows` rows beside the run's, and gives the run's pipeline."""
    from capfilt.run.commit import commit

    def make(rows: int, name: str = "run-limit-100", phases: dict[str, float] | None = None, summary: bool = True) -> Any:
        folder = tmp_path / name
        (folder / "events").mkdir(parents=True)
        shades: list[int | None] = [None if i % 2 else 10 for i in range(rows)]
        commit(pool_table("c", shades), str(folder / "pool"), chunk_id="c", fingerprint="f", stage="pool")
        told = phases or {"pool": 4.0, "round-1/candidates": 8.0, "round-1/write": 1.0}
        lines = [json.dumps({"phase": phase, "seconds": seconds}) for phase, seconds in told.items()]
        (folder / "events" / "phases.jsonl").write_text("\n".join(lines) + "\n")
        if summary:
            (folder / "round-1" / "selection").mkdir(parents=True)
            (folder / "round-1" / "selection" / "summary.json").write_text(json.dumps({"rows": rows, "kept_rows": rows // 4}))
        return pipeline_of(tmp_path / "run")

    return make


def test_time_and_disk_grow_with_the_rows(trial: Callable[..., Any], tmp_path: Path) -> None:
    bill = estimate(trial(100), 1000)
    assert bill is not None
    costs = {cost.phase: cost for cost in bill.costs}
    assert list(costs) == ["pool", "candidates", "write"]
    assert costs["pool"].hours == pytest.approx(40 / 3600)
    assert costs["pool"].rows_per_s == pytest.approx(25)
    size = sum(path.stat().st_size for path in (tmp_path / "run-limit-100" / "pool").iterdir())
    assert costs["pool"].disk_bytes == size * 10
    assert bill.slowest.phase == "candidates"
    assert bill.kept is not None
    assert bill.kept[1] < 0.25 < bill.kept[2]


def test_gpu_hours_are_those_of_the_actors(trial: Callable[..., Any]) -> None:
    pipeline = trial(100)
    resources = pipeline.resources
    own = resources.caption.model_copy(update={"actors": 8, "gpus": 0.5})
    pipeline = pipeline.model_copy(update={"resources": resources.model_copy(update={"caption": own})})
    bill = estimate(pipeline, 100)
    assert bill is not None
    assert {cost.phase: cost.gpu_hours for cost in bill.costs} == {
        "pool": None,
        "candidates": pytest.approx(4 * 8 / 3600),
        "write": None,
    }


def test_caption_and_filter_as_one_take_the_gpus_of_caption(trial: Callable[..., Any], tmp_path: Path) -> None:
    pipeline = trial(100)
    both = {name: getattr(pipeline.resources, name).model_copy(update={"gpus": 1.0}) for name in ("caption", "filter")}
    pipeline = pipeline.model_copy(update={"resources": pipeline.resources.model_copy(update=both)})
    hours = []
    for fused in (False, True):
        line = {"phase": "round-1/candidates", "fused": fused}
        (tmp_path / "run-limit-100" / "events" / "pairing.jsonl").write_text(json.dumps(line) + "\n")
        bill = estimate(pipeline, 100)
        assert bill is not None
        hours.append(next(cost.gpu_hours for cost in bill.costs if cost.phase == "candidates"))
    assert hours == [pytest.approx(2 * 8 / 3600), pytest.approx(8 / 3600)]


def test_the_largest_trial_speaks(trial: Callable[..., Any]) -> None:
    trial(100)
    bill = estimate(trial(SMALLEST_TRIAL + 200, "run-limit-264"), 10)
    assert bill is not None
    assert (bill.trial.rpartition("/")[2], bill.trial_rows) == ("run-limit-264", 264)


def test_a_trial_that_was_stopped_and_went_on_counts_all_its_time(trial: Callable[..., Any], tmp_path: Path) -> None:
    pipeline = trial(100)
    with (tmp_path / "run-limit-100" / "events" / "phases.jsonl").open("a") as log:
        log.write(json.dumps({"phase": "pool", "seconds": 6.0}) + "\n")
    bill = estimate(pipeline, 100)
    assert bill is not None
    assert bill.costs[0].hours == pytest.approx(10 / 3600)


def test_a_run_that_is_done_is_its_own_measure(trial: Callable[..., Any], tmp_path: Path) -> None:
    bill = estimate(trial(100, "run"), 100)
    assert bill is not None
    assert (bill.trial, bill.trial_rows) == (str(tmp_path / "run"), 100)
    assert bill.costs[0].hours == pytest.approx(4 / 3600)


@pytest.mark.parametrize("rows", [0, SMALLEST_TRIAL - 1])
def test_without_a_trial_worth_its_name_there_is_no_bill(rows: int, trial: Callable[..., Any], tmp_path: Path) -> None:
    pipeline = trial(rows, summary=False) if rows else trial(100, "another-limit-100")
    assert estimate(pipeline, 1000) is None


@given(count=st.integers(1, 10**6), data=st.data())
def test_an_interval_holds_the_share(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, count))
    share, low, high = _interval(hits, count)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
