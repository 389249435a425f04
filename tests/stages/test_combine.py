"""Several filters' scores of a text as one."""

from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.select import Combine, SelectConfig, Threshold
from capfilt.schema import SCORE
from capfilt.stages.combine import (
    combined,
    combined_scores,
    judged_score,
    judged_scores,
    own_scores,
    relative,
    scores_by_filter,
)

HOW: tuple[Combine, ...] = get_args(Combine)
VALUES = st.floats(0, 1, width=32)


def column(texts: list[list[tuple[float | None, float | None]]]) -> pa.Array:
    return pa.array(
        [[{"filter": f"f{n}", "itm": m, "itc": c} for n, (m, c) in enumerate(text)] for text in texts], pa.list_(SCORE)
    )


@pytest.mark.parametrize("how", HOW)
def test_filters_without_the_score_are_left_out(how: Combine) -> None:
    scores = column([[(0.25, None), (0.5, None)], [], [(None, 0.5)], [(0.5, 0.125), (None, 0.25)]])
    itm = {"mean": 0.375, "min": 0.25, "vote": 0.25}[how]
    itc = {"mean": 0.1875, "min": 0.125, "vote": 0.125}[how]
    np.testing.assert_array_equal(combined_scores(scores, "itm", how), np.float32([itm, np.nan, np.nan, 0.5]))
    np.testing.assert_array_equal(combined_scores(scores, "itc", how), np.float32([np.nan, np.nan, 0.5, itc]))


@given(st.lists(st.lists(st.one_of(st.none(), VALUES), max_size=5), max_size=6), st.sampled_from(HOW))
def test_a_column_is_combined_as_each_of_its_texts(texts: list[list[float | None]], how: Combine) -> None:
    found = combined_scores(column([[(value, None) for value in text] for text in texts]), "itm", how)
    for text, score in zip(texts, found, strict=True):
        values = [value for value in text if value is not None]
        expected = combined(values, how) if values else np.nan
        np.testing.assert_allclose(score, expected, rtol=1e-6)


@given(st.lists(VALUES, min_size=1, max_size=7), VALUES)
def test_a_threshold_is_reached_where_the_named_share_of_filters_reaches_it(values: list[float], threshold: float) -> None:
    reached = sum(value >= threshold for value in values)
    assert (combined(values, "vote") >= threshold) == (reached > len(values) / 2)
    assert (combined(values, "min") >= threshold) == (reached == len(values))


@pytest.mark.parametrize("how", HOW)
def test_one_filter_alone_is_itself(how: Combine) -> None:
    assert combined([0.3], how) == 0.3


def test_each_filter_is_told_apart() -> None:
    found = scores_by_filter(column([[(0.25, 0.5), (None, 0.75)], [(0.5, None)], []]), SelectConfig())
    assert {name: given.tolist() for name, given in found.items()} == {
        "f0": [0.25, 0.5],
        "f1": [pytest.approx(np.nan, nan_ok=True)],
    }


COSINES = st.floats(-1, 1, width=32)
POLICIES = st.builds(
    lambda how, usual, first, second: SelectConfig.model_validate(
        {"combine": how, "min_itm": usual, "by": {"f0": {"min_itc": first}, "f1": {"min_itm": second}}}
    ),
    st.sampled_from(["min", "vote"]),
    VALUES,
    COSINES,
    VALUES,
)
TEXTS = st.lists(st.lists(st.tuples(st.one_of(st.none(), VALUES), st.one_of(st.none(), COSINES)), max_size=4), max_size=4)


@given(TEXTS, POLICIES)
def test_each_filter_is_judged_by_its_own_score_and_threshold(
    texts: list[list[tuple[float | None, float | None]]], policy: SelectConfig
) -> None:
    scores = column(texts)
    for text, score in zip(scores.to_pylist(), judged_scores(scores, policy), strict=True):
        own = own_scores(text, policy)
        if not own:
            assert np.isnan(score)
            continue
        reached = sum(np.float32(value) >= np.float32(policy.of(name).least) for name, value in own.items())
        believed = reached == len(own) if policy.combine == "min" else reached > len(own) / 2
        assert (score >= np.float32(policy.threshold)) == believed
        np.testing.assert_allclose(score, judged_score(own, policy), rtol=1e-6, atol=1e-30)


@given(st.lists(COSINES, min_size=2, max_size=6), COSINES)
def test_a_relative_score_keeps_the_order_and_meets_the_threshold_in_the_middle(values: list[float], least: float) -> None:
    found = relative(np.array(sorted(values)), Threshold("itc", least))
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(found.astype(np.float32) >= 0.5, np.array(sorted(values)) >= least)
    assert relative(np.array([-1.0, 1.0]), Threshold("itc", 0.25)).tolist() == [0, 1]


def test_where_thresholds_are_one_the_scores_stay_as_they_are() -> None:
    scores = column([[(0.25, 0.5), (0.75, 0.5)], []])
    for how in HOW:
        policy = SelectConfig(combine=how, min_itm=0.4)
        np.testing.assert_array_equal(judged_scores(scores, policy), combined_scores(scores, "itm", how))
