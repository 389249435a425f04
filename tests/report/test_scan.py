from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from capfilt.config.select import SelectConfig
from capfilt.report import scan as scan_module
from capfilt.report.facts import gather
from capfilt.report.funnel import steps
from capfilt.report.scan import Scan, scan


def scanned(folder: Path, cards: int = 60) -> Scan:
    one = gather(folder).scored_round
    assert one is not None
    return scan(one.candidates, one.selection, is_candidates=True, policy=SelectConfig(), cards=cards)


def test_the_counts_are_those_of_the_tables(finished_run: Path) -> None:
    found, rows = scanned(finished_run), _rows(finished_run)
    kept = [(caption["origin"], reason) for row in rows for caption, reason in zip(row["captions"], row["reason"], strict=True)]
    assert found.rows == len(rows) == 240
    assert found.texts["web"].reasons["kept"] == kept.count(("web", "kept")) > 0
    assert found.texts["synthetic"].reasons["kept"] == kept.count(("synthetic", "kept")) > 0
    assert found.rows_kept == sum("kept" in row["reason"] for row in rows)
    scores = [
        caption["scores"][0]["itm"]
        for row in rows
        for caption in row["captions"]
        if caption["scores"] and caption["origin"] == "web"
    ]
    assert found.texts["web"].noise_ratio == pytest.approx(np.mean(np.array(scores) < 0.5))
    assert found.texts["web"].bins.sum() == len(scores)


def test_neighbouring_steps_of_the_funnel_add_up(finished_run: Path) -> None:
    drawn = steps(scanned(finished_run), SelectConfig())
    assert len(drawn) == 7
    for above, below in pairwise(drawn):
        for flow in above.flows:
            lost = sum(loss.size for loss in above.losses if loss.kind == flow.kind)
            assert flow.size - lost == flow.goes_on, above.name
        if [flow.kind for flow in above.flows] == [flow.kind for flow in below.flows]:
            assert [flow.goes_on for flow in above.flows] == [flow.size for flow in below.flows], above.name


@pytest.mark.parametrize("rows_at_once", [1, 7, 64, 1000])
def test_the_size_of_a_batch_changes_no_count_and_no_funnel(
    finished_run: Path, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scanned(finished_run)
    monkeypatch.setattr(scan_module, "ROWS_AT_ONCE", rows_at_once)
    parts = scanned(finished_run)
    assert steps(parts, SelectConfig()) == steps(whole, SelectConfig())
    assert parts.groups == whole.groups
    assert parts.kept_origins == whole.kept_origins


def test_rows_that_the_selection_does_not_have_are_counted_without_a_fate(run_folder: Path) -> None:
    path = run_folder / "round-1" / "selection" / "selection.parquet"
    pq.write_table(pq.read_table(path).slice(100, 50), path)
    found = scanned(run_folder)
    assert found.rows == 240
    assert 0 < found.rows_kept < 50
    assert found.texts["web"].reasons[""] > 0


def _rows(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    candidates = [
        row for path in sorted((folder / "round-1" / "candidates").glob("*")) for row in pq.read_table(path).to_pylist()
    ]
    selection = pq.read_table(folder / "round-1" / "selection" / "selection.parquet").to_pylist()
    return [{**row, "reason": fate["reason"]} for row, fate in zip(candidates, selection, strict=True)]
