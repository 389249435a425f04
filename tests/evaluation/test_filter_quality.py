import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.select import SelectConfig
from capfilt.evaluation.filter_quality import filter_quality, precision_recall, roc_auc
from capfilt.evaluation.truth import read_truth
from capfilt.miniweb.language import describe


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12))
def test_roc_auc_is_the_share_of_pairs_in_the_right_order_ties_counting_half(scored):
    scores, labels = np.array([s for s, _ in scored], float), np.array([y for _, y in scored], bool)
    pairs = [(p, n) for p in scores[labels] for n in scores[~labels]]
    expected = sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs) if pairs else None
    assert roc_auc(scores, labels) == (pytest.approx(expected) if pairs else None)


def test_precision_and_recall_of_nothing_are_unknown():
    assert precision_recall(np.array([False, False]), np.array([True, False])) == (None, 0.0)
    assert precision_recall(np.array([True]), np.array([False])) == (0.0, None)


@pytest.fixture
def measured(tmp_path, scenes, wrong_text, write_truth, write_candidates):
    from random import Random

    kinds = [(True, "correct"), (False, "spam"), (False, "other_picture"), (True, "correct")]
    truth = write_truth(
        [
            {"url": f"u{i}", "key": None, "text_is_true": is_true, "noise_kind": kind, "scene": scenes[i].to_json()}
            for i, (is_true, kind) in enumerate(kinds)
        ]
    )
    right = [describe(scene, Random(1)) for scene in scenes]
    candidates = write_candidates(
        [
            ("u0", [("web", "w", 0.9), ("synthetic", right[0], 0.8)]),
            ("u1", [("web", "w", 0.1), ("synthetic", wrong_text(scenes[1]), 0.6)]),
            ("u2", [("web", "w", 0.5), ("synthetic", wrong_text(scenes[2]), 0.2)]),
            ("u3", [("web", "w", 0.3), ("synthetic", right[3], 0.4)]),
            ("u3", [("web", "never scored", None)]),
            ("stranger", [("web", "w", 0.9)]),
        ]
    )
    kept = [[True, True], [False, True], [True, False], [False, False], [False], [True]]
    table = pa.table({"row_id": [f"c-{i}" for i in range(6)], "kept": kept})
    pq.write_table(table, tmp_path / "selection.parquet")
    selection = str(tmp_path / "selection.parquet")
    return filter_quality([candidates], read_truth(truth), policy=SelectConfig(min_itm=0.5), selection=selection)


def test_web_texts_are_counted_against_the_truth(measured):
    web = measured["web"]
    assert {name: web[name] for name in ("count", "true", "kept", "precision", "recall")} == {
        "count": 4,
        "true": 2,
        "kept": 2,
        "precision": 0.5,
        "recall": 0.5,
    }
    assert web["roc_auc"] == 0.75
    assert measured["noise_ratio"] == {"web": 0.5, "synthetic": 0.5}


def test_the_score_and_its_threshold_are_named(measured):
    assert (measured["score"], measured["threshold"]) == ("itm", 0.5)


def test_each_noise_kind_is_told_from_the_true_texts(measured):
    kinds = measured["web"]["by_noise_kind"]
    assert list(kinds) == ["correct", "other_picture", "spam"]
    assert kinds["spam"] == {"count": 1, "true": 0, "kept": 0, "kept_share": 0.0, "roc_auc": 1.0}
    assert kinds["other_picture"] == {"count": 1, "true": 0, "kept": 1, "kept_share": 1.0, "roc_auc": 0.5}
    assert kinds["correct"]["roc_auc"] is None


def test_synthetic_texts_are_judged_by_their_scene(measured):
    assert measured["synthetic"] == {
        "count": 4,
        "kept": 2,
        "true_before": 0.5,
        "true_after": 0.5,
        "precision": 0.5,
        "recall": 0.5,
        "roc_auc": 0.75,
        "false_count": 2,
        "false_rejected": 1,
    }


def test_the_data_set_is_what_the_selection_kept(measured):
    assert measured["dataset"]["web"] == {"count": 2, "true": 1, "true_share": 0.5}
    assert measured["dataset"]["all"] == {"count": 4, "true": 2, "true_share": 0.5}


def test_the_threshold_is_compared_in_the_tables_precision(write_candidates, write_truth, scenes):
    truth = write_truth([{"url": "u", "key": None, "text_is_true": True, "noise_kind": "correct", "scene": scenes[0].to_json()}])
    found = filter_quality([write_candidates([("u", [("web", "w", 0.7)])])], read_truth(truth), policy=SelectConfig(min_itm=0.7))
    assert found["web"]["kept"] == 1


def test_no_synthetic_text_is_no_number(write_candidates, write_truth, scenes):
    truth = write_truth([{"url": "u", "key": None, "text_is_true": True, "noise_kind": "correct", "scene": scenes[0].to_json()}])
    found = filter_quality([write_candidates([("u", [("web", "w", 0.7)])])], read_truth(truth), policy=SelectConfig(min_itm=0.5))
    assert found["noise_ratio"]["synthetic"] is None
    assert found["synthetic"]["true_before"] is None
    assert "dataset" not in found


def test_real_texts_are_known_by_uid_and_synthetic_ones_are_only_counted(tmp_path, write_candidates, write_truth):
    truth = write_truth(
        [
            {"uid": "uid of u0", "text_is_true": True, "noise_kind": "own"},
            {"uid": "uid of u1", "text_is_true": False, "noise_kind": "near_miss"},
        ]
    )
    candidates = write_candidates(
        [("u0", [("web", "w", 0.9), ("synthetic", "s", 0.8)]), ("u1", [("web", "w", 0.6), ("synthetic", "s", 0.2)])]
    )
    table = pa.table({"row_id": ["c-0", "c-1"], "kept": [[True, True], [True, False]]})
    pq.write_table(table, tmp_path / "selection.parquet")
    selection = str(tmp_path / "selection.parquet")
    found = filter_quality([candidates], read_truth(truth), policy=SelectConfig(min_itm=0.5), selection=selection)
    assert found["web"]["precision"] == 0.5
    assert found["web"]["by_noise_kind"]["near_miss"]["roc_auc"] == 1.0
    assert found["noise_ratio"]["synthetic"] == 0.5
    assert found["synthetic"]["count"] == 2
    assert found["synthetic"]["kept"] == 1
    assert found["synthetic"]["precision"] is None
    assert found["dataset"]["web"] == {"count": 2, "true": 1, "true_share": 0.5}
    assert found["dataset"]["synthetic"] == {"count": 1, "true": None, "true_share": None}
    assert found["dataset"]["all"] == {"count": 3, "true": None, "true_share": None}
