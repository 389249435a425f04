"""Select: reasons, policies, survivors, views."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capfilt.config.round import DedupConfig
from capfilt.config.select import SelectConfig
from capfilt.dedup import records
from capfilt.errors import ConfigError, ContractError, InputError
from capfilt.schema import CAPTION, REASONS, SELECTION
from capfilt.stages.select import select, select_view
from capfilt.writers.view import unpacked

CHUNK_A, CHUNK_B = "00000000000000aa", "00000000000000bb"


def text(
    origin: str, itm: float | None, *, rule: str | None = None, error: str | None = None, filters: int = 1
) -> dict[str, Any]:
    scores = [] if itm is None else [{"filter": f"f{n}", "itm": itm, "itc": 0.1} for n in range(filters)]
    return {
        "text": f"a {origin} text",
        "origin": origin,
        "captioner": None,
        "k": 0,
        "log_prob": None,
        "rule": rule,
        "error": error,
        "scores": scores,
    }


def make_run(folder: Path, rows: list[list[dict[str, Any]]], *, status: dict[int, str] | None = None, cut: int = 2) -> Path:
    """A run with round-1 candidates in two chunks; row i is `row_id(i)`."""
    (folder / "round-1" / "candidates").mkdir(parents=True, exist_ok=True)
    for chunk, part in ((CHUNK_A, range(min(cut, len(rows)))), (CHUNK_B, range(min(cut, len(rows)), len(rows)))):
        table = pa.table(
            {
                "row_id": pa.array([f"{chunk}-{i:06d}" for i in part], pa.string()),
                "uid": pa.array([f"{i:032x}" for i in part], pa.string()),
                "status": pa.array([(status or {}).get(i, "ok") for i in part], pa.string()),
                "captions": pa.array([rows[i] for i in part], pa.list_(CAPTION)),
            }
        )
        pq.write_table(table, folder / "round-1" / "candidates" / f"chunk-{chunk}.parquet")
    return folder


def row_id(i: int, cut: int = 2) -> str:
    return f"{CHUNK_A if i < cut else CHUNK_B}-{i:06d}"


def record(run: Path, pairs: list[tuple[int, int, float]], hits: list[int] = [], *, min_cosine: float = 0.9) -> str:  # noqa: B006
    folder = run / "round-1" / "dedup"
    folder.mkdir(exist_ok=True)
    columns = [
        [row_id(a) for a, _, _ in pairs],
        [row_id(b) for _, b, _ in pairs],
        [c for _, _, c in pairs],
        ["cosine"] * len(pairs),
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, records.PAIRS, strict=True)]
    records.write_table(pa.Table.from_arrays(arrays, schema=records.PAIRS), folder / "pairs.parquet", {"min_cosine": min_cosine})
    columns = [[row_id(i) for i in hits], [f"heldout.parquet#{i}" for i in hits], [0.99] * len(hits), ["cosine"] * len(hits)]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, records.CONTAMINATION, strict=True)]
    records.write_table(pa.Table.from_arrays(arrays, schema=records.CONTAMINATION), folder / "contamination.parquet", {})
    return str(folder)


def candidates(run: Path) -> list[str]:
    # In the wrong order on purpose: the order of the arguments must not matter.
    return sorted((str(path) for path in (run / "round-1" / "candidates").iterdir()), reverse=True)


def decide(
    run: Path, config: SelectConfig | None = None, dedup: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    summary = select(config or SelectConfig(), candidates(run), dedup, str(run / "selection"))
    table = pq.read_table(run / "selection" / "selection.parquet")
    assert table.schema.equals(SELECTION)
    return table.to_pylist(), summary


def test_every_text_says_why_it_is_kept_or_not(tmp_path: Path) -> None:
    rows = [
        [
            text("web", 0.9),
            text("synthetic", 0.4),
            text("web", None, rule="not_empty"),
            text("synthetic", None, error="too_long"),
        ],
        [text("web", 0.9)],
        [text("web", None)],
        [],
    ]
    decided, summary = decide(make_run(tmp_path, rows, status={1: "download_failed"}))
    assert [row["reason"] for row in decided] == [["kept", "below_threshold", "rule", "error"], ["row_not_ok"], ["error"], []]
    assert [row["kept"] for row in decided] == [[True, False, False, False], [False], [False], []]
    assert summary["rows"] == 4
    assert summary["healthy_rows"] == 3
    assert summary["texts"]["web"] == {
        "count": 4,
        "scored": 2,
        "kept": 1,
        "reasons": {"kept": 1, "row_not_ok": 1, "rule": 1, "error": 1},
    }
    assert summary == json.loads((tmp_path / "selection" / "summary.json").read_text())


def judged_apart(itm: float, itc: float) -> dict[str, Any]:
    """A text with an ITM of `med` and a cosine of `coca`."""
    scores = [{"filter": "med", "itm": itm, "itc": None}, {"filter": "coca", "itm": None, "itc": itc}]
    return {**text("web", 0.0), "scores": scores}


@pytest.mark.parametrize(("how", "kept"), [("vote", [True, False, False, False]), ("min", [True, False, False, False])])
def test_filters_with_different_scores_are_judged_each_by_its_own(tmp_path: Path, how: str, kept: list[bool]) -> None:
    rows = [[judged_apart(0.5, 0.3), judged_apart(0.9, 0.29), judged_apart(0.49, 0.9), judged_apart(0.1, 0.1)]]
    policy = SelectConfig.model_validate({"combine": how, "by": {"coca": {"min_itc": 0.3}}})
    decided, summary = decide(make_run(tmp_path, rows), policy)
    assert decided[0]["kept"] == kept
    assert (summary["score"], summary["threshold"], summary["combine"]) == ("relative", 0.5, how)
    told = {name: (own["score"], own["threshold"], own["noise_ratio"]) for name, own in summary["filters"].items()}
    assert told == {"med": ("itm", 0.5, 0.5), "coca": ("itc", 0.3, 0.5)}


def test_a_threshold_of_its_own_is_told_of_one_filter_too(tmp_path: Path) -> None:
    policy = SelectConfig.model_validate({"combine": "vote", "by": {"f0": {"min_itc": 0.05}}})
    decided, summary = decide(make_run(tmp_path, [[text("web", 0.2)]]), policy)
    assert decided[0]["kept"] == [True]
    assert (summary["combine"], summary["filters"]["f0"]["score"], summary["filters"]["f0"]["threshold"]) == ("vote", "itc", 0.05)


def test_the_best_text_is_the_one_farthest_beyond_its_filters_thresholds(tmp_path: Path) -> None:
    rows = [[judged_apart(0.95, 0.31), judged_apart(0.7, 0.8)]]
    policy = SelectConfig.model_validate({"policy": "best", "combine": "vote", "by": {"coca": {"min_itc": 0.3}}})
    assert decide(make_run(tmp_path, rows), policy)[0][0]["kept"] == [False, True]


def test_a_threshold_of_a_filter_that_did_not_score_is_refused(tmp_path: Path) -> None:
    policy = SelectConfig.model_validate({"combine": "vote", "by": {"cocoa": {"min_itc": 0.3}}, "min_itc": 0.2})
    with pytest.raises(ConfigError, match=r"expected names of filters, f0, found 'cocoa'"):
        decide(make_run(tmp_path, [[text("web", 0.9)]]), policy)


def test_a_score_at_the_threshold_passes_although_float32_cannot_hold_it(tmp_path: Path) -> None:
    decided, _ = decide(make_run(tmp_path, [[text("web", 0.7), text("web", 0.6999)]]), SelectConfig(min_itm=0.7))
    assert decided[0]["kept"] == [True, False]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("both", [[True, True, False], [False, True, True]]),
        ("web_else_synthetic", [[True, False, False], [False, True, True]]),
        ("best", [[False, True, False], [False, True, False]]),
        ("web", [[True, False, False], [False, False, False]]),
        ("synthetic", [[False, True, False], [False, True, True]]),
    ],
)
def test_policies(tmp_path: Path, policy: Any, kept: list[list[bool]]) -> None:
    rows = [
        [text("web", 0.6), text("synthetic", 0.8), text("synthetic", 0.1)],
        [text("web", 0.2), text("synthetic", 0.7), text("synthetic", 0.7)],
    ]
    decided, _ = decide(make_run(tmp_path, rows), SelectConfig(policy=policy))
    assert [row["kept"] for row in decided] == kept
    lost = {reason for row in decided for reason, is_kept in zip(row["reason"], row["kept"], strict=True) if not is_kept}
    assert lost == ({"below_threshold"} if policy == "both" else {"below_threshold", "not_chosen"})


def test_the_survivor_is_the_row_with_the_best_kept_text_not_the_first(tmp_path: Path) -> None:
    run = make_run(tmp_path, [[text("web", 0.3)], [text("web", 0.7)], [text("synthetic", 0.8)], [text("web", 0.8)]])
    decided, summary = decide(run, dedup=record(run, [(0, 1, 0.95), (1, 2, 0.95), (2, 3, 0.95)]))
    assert [row["survivor"] for row in decided] == [False, False, True, False]
    assert [row["reason"] for row in decided] == [["below_threshold"], ["duplicate"], ["kept"], ["duplicate"]]
    assert {row["group"] for row in decided} == {row_id(0)}
    assert (summary["duplicate_groups"], summary["duplicates"], summary["kept_rows"]) == (1, 3, 1)


def test_a_row_of_an_evaluation_set_is_left_out_and_does_not_take_its_duplicates_place(tmp_path: Path) -> None:
    run = make_run(tmp_path, [[text("web", 0.9)], [text("web", 0.6)], [text("web", 0.9)]])
    decided, summary = decide(run, dedup=record(run, [(0, 1, 0.95)], hits=[0, 2]))
    assert [row["reason"] for row in decided] == [["contaminated"], ["kept"], ["contaminated"]]
    assert [row["contaminated_by"] for row in decided] == ["heldout.parquet#0", None, "heldout.parquet#2"]
    assert summary["contaminated"] == 2


def test_a_higher_threshold_can_be_applied_later_and_a_lower_one_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, [[text("web", 0.9)], [text("web", 0.6)]])
    record(run, [(0, 1, 0.95)], min_cosine=0.9)
    assert select_view(run, "same", SelectConfig(), DedupConfig(min_cosine=0.95))["kept_rows"] == 1
    assert select_view(run, "strict", SelectConfig(), DedupConfig(min_cosine=0.96))["kept_rows"] == 2
    with pytest.raises(ConfigError, match=r"at least 0\.9.*found 0\.8"):
        select_view(run, "loose", SelectConfig(), DedupConfig(min_cosine=0.8))


def test_a_view_holds_the_sorted_uids_of_kept_rows_and_leaves_the_selection_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, [[text("web", 0.9)], [text("web", 0.1)], [text("web", 0.6)]])
    before = decide(run)[0]
    summary = select_view(run, "v1", SelectConfig(min_itm=0.5), None)
    view = run / "round-1" / "views" / "v1"
    uids = np.load(view / "view.npy")
    assert uids.dtype == np.dtype("u8,u8")
    assert unpacked(uids) == [f"{0:032x}", f"{2:032x}"]
    assert json.loads((view / "view.json").read_text()) == {"name": "v1", **summary, "uids": 2}
    assert pq.read_table(run / "selection" / "selection.parquet").to_pylist() == before


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b"])
def test_a_view_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        select_view(make_run(tmp_path, [[]]), name, SelectConfig(), None)


def test_a_view_of_a_run_that_has_not_come_to_dedup_is_refused_and_not_written_with_its_duplicates(tmp_path: Path) -> None:
    run = make_run(tmp_path, [[text("web", 0.9)], [text("web", 0.6)]])
    with pytest.raises(InputError, match=r"dedup.*found no such folder.*--until dedup.*--set dedup=null"):
        select_view(run, "early", SelectConfig(), DedupConfig(min_cosine=0.95))
    assert not (run / "round-1" / "views").exists()
    assert select_view(run, "early", SelectConfig(), None)["kept_rows"] == 2


@pytest.mark.parametrize("name", ["strict.old", "strict.tmp", "Strict.OLD"])
def test_a_view_is_not_called_like_what_is_written_beside_another(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path, [[text("web", 0.9)]])
    with pytest.raises(ConfigError, match=rf"without `.tmp` or `.old` at its end.*found `{name}`"):
        select_view(run, name, SelectConfig(), None)
    assert not (run / "round-1" / "views").exists()
    assert select_view(run, "older.v2", SelectConfig(), None)["kept_rows"] == 1


def test_a_run_without_candidates_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="candidates"):
        select_view(tmp_path, "v", SelectConfig(), None)


def test_no_candidates_give_an_empty_selection_with_its_schema(tmp_path: Path) -> None:
    decided, summary = decide(make_run(tmp_path, []))
    assert decided == []
    assert summary["kept_rows"] == 0
    assert summary["noise_ratio"] == {"web": None, "synthetic": None}


def test_rows_out_of_order_are_a_bug(tmp_path: Path) -> None:
    run = make_run(tmp_path, [[text("web", 0.9)], [text("web", 0.9)]])
    path = run / "round-1" / "candidates" / f"chunk-{CHUNK_A}.parquet"
    pq.write_table(pq.read_table(path).take([1, 0]), path)
    with pytest.raises(ContractError, match="ascend"):
        decide(run)


def test_the_score_is_the_mean_over_filters(tmp_path: Path) -> None:
    caption = text("web", 0.9, filters=2)
    caption["scores"][1]["itm"] = 0.2
    assert decide(make_run(tmp_path, [[caption]]))[1]["mean_score"]["web"] == pytest.approx(0.55, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "score", "threshold", "mean"), [(SelectConfig(), "itm", 0.5, 0.9), (SelectConfig(min_itc=-0.2), "itc", -0.2, 0.1)]
)
def test_the_summary_names_the_score_that_decided(
    tmp_path: Path, config: SelectConfig, score: str, threshold: float, mean: float
) -> None:
    summary = decide(make_run(tmp_path, [[text("web", 0.9)]]), config)[1]
    assert (summary["score"], summary["threshold"]) == (score, threshold)
    assert summary["mean_score"]["web"] == pytest.approx(mean, abs=1e-6)
    assert not [name for name in summary if "itm" in name]


def test_curves_are_keep_rates_of_scored_texts(tmp_path: Path) -> None:
    rows = [[text("web", score)] for score in (0.0, 0.5, 0.52, 1.0)]
    summary = decide(make_run(tmp_path, rows))[1]
    curve = dict(zip(summary["curves"]["threshold"], summary["curves"]["web"], strict=True))
    assert (curve[0.0], curve[0.5], curve[0.55], curve[1.0]) == (1.0, 0.75, 0.25, 0.25)
    assert len(curve) == 21
    assert summary["noise_ratio"]["web"] == 1 - curve[0.5]


scores = st.one_of(st.none(), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
captions = st.builds(
    text,
    st.sampled_from(["web", "synthetic"]),
    scores,
    rule=st.sampled_from([None, None, "words"]),
    error=st.sampled_from([None, None, "x"]),
)


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    rows = draw(st.lists(st.lists(captions, max_size=3), min_size=1, max_size=8))
    number = st.integers(0, len(rows) - 1)
    pairs = draw(st.lists(st.tuples(number, number, st.sampled_from([0.9, 0.95, 0.99])), max_size=8))
    return {
        "rows": rows,
        "pairs": sorted({(min(a, b), max(a, b), c) for a, b, c in pairs if a != b}),
        "hits": sorted(draw(st.sets(number, max_size=2))),
        "policy": draw(st.sampled_from(["both", "web_else_synthetic", "best", "web", "synthetic"])),
    }


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=worlds())
def test_invariants_of_any_selection(tmp_path_factory: pytest.TempPathFactory, world: dict[str, Any]) -> None:
    run = make_run(tmp_path_factory.mktemp("run"), world["rows"])
    config = SelectConfig(policy=world["policy"])
    folder = record(run, world["pairs"], world["hits"])
    decided, summary = decide(run, config, folder)
    first = (run / "selection" / "selection.parquet").read_bytes()
    decide(run, config, folder)
    assert (run / "selection" / "selection.parquet").read_bytes() == first, "deciding twice gives the same bytes"

    assert [row["row_id"] for row in decided] == [row_id(i) for i in range(len(world["rows"]))], "every row once, in order"
    survivors: dict[str, int] = {}
    for row, texts in zip(decided, world["rows"], strict=True):
        assert len(row["kept"]) == len(row["reason"]) == len(texts), "parallel to captions"
        assert all((reason == "kept") == kept for reason, kept in zip(row["reason"], row["kept"], strict=True))
        assert set(row["reason"]) <= set(REASONS)
        survivors[row["group"]] = survivors.get(row["group"], 0) + row["survivor"]
        if any(row["kept"]):
            assert row["survivor"]
            assert row["contaminated_by"] is None
    assert set(survivors.values()) == {1}, "one survivor per group"
    for a, b, _ in world["pairs"]:
        assert decided[a]["group"] == decided[b]["group"]
    assert all(row["group"] <= row["row_id"] for row in decided)
    told = [reason for row in decided for reason in row["reason"]]
    for code in REASONS:
        assert told.count(code) == sum(texts["reasons"].get(code, 0) for texts in summary["texts"].values())
    # A group loses its kept text only to an evaluation set.
    for group in survivors:
        members = [row for row in decided if row["group"] == group]
        wanted = [row for row in members if {"kept", "duplicate"} & set(row["reason"]) and row["contaminated_by"] is None]
        assert (sum(any(row["kept"]) for row in members) == 1) == bool(wanted)
