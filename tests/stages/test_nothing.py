"""A selection that kept nothing says why, and what to do."""

from pathlib import Path
from typing import Any

import pytest

from capfilt.config.select import SelectConfig
from tests.stages.test_select import decide, judged_apart, make_run, record, text

Rows = list[list[dict[str, Any]]]


def why(place: Path, rows: Rows, config: SelectConfig | None = None, **options: Any) -> str:
    told: str = decide(make_run(place, rows, **options), config)[1]["nothing_kept"]
    return told


def test_all_texts_below_the_threshold_tell_the_highest(tmp_path: Path) -> None:
    told = why(tmp_path, [[text("web", 0.31), text("synthetic", 0.2)], [text("web", 0.1)]])
    assert told.startswith("all 3 texts are below ITM 0.5 (highest 0.31). Lower select.min_itm")
    assert "--set select.min_itm=0.31" in told


def test_what_is_advised_keeps_something(tmp_path: Path) -> None:
    rows = [[text("web", 0.49999)]]
    assert "(highest 0.499)" in why(tmp_path, rows)
    assert "nothing_kept" not in decide(tmp_path, SelectConfig(min_itm=0.499))[1]


@pytest.mark.parametrize(("score", "least", "told"), [(0.49999997, 0.5, "0.499"), (0.3, 0.7, "0.3"), (-0.0004, 0.2, "-0.001")])
def test_a_score_just_below_is_not_told_as_the_threshold(tmp_path: Path, score: float, least: float, told: str) -> None:
    scores = [{"filter": "f", "itm": None, "itc": score}]
    found = why(tmp_path, [[{**text("web", None), "scores": scores}]], SelectConfig(min_itc=least))
    assert f"(highest {told}). Lower select.min_itc" in found
    assert "nothing_kept" not in decide(tmp_path, SelectConfig(min_itc=float(told)))[1]


def test_of_filters_with_their_own_thresholds_each_ones_highest_is_told(tmp_path: Path) -> None:
    policy = SelectConfig.model_validate({"combine": "min", "by": {"coca": {"min_itc": 0.3}}})
    told = why(tmp_path, [[judged_apart(0.9, 0.2), judged_apart(0.4, 0.6)]], policy)
    assert "are below the threshold of a filter: coca cosine 0.3 (highest 0.6), med ITM 0.5 (highest 0.9)" in told


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (
            [[text("web", None, rule="words"), text("synthetic", 0.1)], [text("web", None, rule="words")]],
            "2 of 3 texts are rejected",
        ),
        ([[text("synthetic", None, error="too_long")]], "all 1 texts could not be made or scored"),
        ([[], []], "none of 2 pictures has a text"),
    ],
)
def test_the_main_reason_is_told(tmp_path: Path, rows: Rows, found: str) -> None:
    assert why(tmp_path, rows).startswith(found)


def test_so_is_a_pool_without_a_usable_picture(tmp_path: Path) -> None:
    told = why(tmp_path, [[text("web", 0.9)]], status={0: "download_failed"})
    assert told.startswith("none of 1 pictures takes part")


def test_and_a_policy_that_wants_none_of_what_passes(tmp_path: Path) -> None:
    told = why(tmp_path, [[text("web", 0.9)]], SelectConfig(policy="synthetic"))
    assert told == "all 1 texts pass, but none that select.policy: synthetic wants. Write policy: both"


def test_and_pictures_that_are_all_in_an_evaluation_set(tmp_path: Path) -> None:
    run = make_run(tmp_path, [[text("web", 0.9)], [text("web", 0.1)], [text("web", 0.8)]])
    told = decide(run, dedup=record(run, [], hits=[0, 2]))[1]["nothing_kept"]
    assert told.startswith("2 of 3 texts pass, but their pictures are in an evaluation set")
