"""benchmarks/real_pool.py: what decides, and what is told of it, from scores that are known."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import real_pool

Score = tuple[str, float, float]


def write_run(folder: Path, web: list[Score]) -> Path:
    """A run whose round 1 scored these web texts, (uid, itm, itc), and as many synthetic ones, all at 1."""
    rows = [
        {
            "uid": uid,
            "captions": [
                {"origin": "web", "scores": [{"itm": itm, "itc": itc}]},
                {"origin": "synthetic", "scores": [{"itm": 1.0, "itc": 1.0}]},
            ],
        }
        for uid, itm, itc in web
    ]
    (folder / "round-1" / "candidates").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "round-1" / "candidates" / "chunk-000000.parquet")
    return folder


def test_a_filter_whose_itm_reaches_a_half_is_asked_by_itm(tmp_path):
    run = write_run(tmp_path, [("a", 0.9, 0.1), ("b", 0.2, 0.3), ("c", 0.1, 0.2)])
    found = real_pool.choose_threshold(run)
    assert found["set"] == []
    assert found["web_share_at_itm_0.5"] == round(1 / 3, 4)


def test_a_filter_whose_itm_says_the_same_of_everything_is_asked_by_its_cosine_at_the_web_texts_median(tmp_path):
    run = write_run(tmp_path, [("a", 0.34, 0.1), ("b", 0.33, 0.3), ("c", 0.32, 0.2)])
    assert real_pool.choose_threshold(run)["set"] == ["select.min_itc=0.2"]


def test_both_scores_are_compared_with_the_truth_by_kind(tmp_path):
    run = write_run(tmp_path, [("own", 0.3, 0.9), ("near", 0.2, 0.8), ("alt", 0.4, 0.1)])
    truth = tmp_path / "truth.parquet"
    pq.write_table(pa.table({"uid": ["own", "near", "alt"], "noise_kind": ["own", "near_miss", "alt_text"]}), truth)
    found = real_pool.by_score(run, truth)
    assert found["itm"]["roc_auc"] == {"all": 0.5, "near_miss": 1.0, "alt_text": 0.0}
    assert found["itc"]["roc_auc"] == {"all": 1.0, "near_miss": 1.0, "alt_text": 1.0}
    assert found["itc"]["upper_half"] == pytest.approx({"precision": 0.5, "recall": 1.0, "own_share": 1 / 3})
