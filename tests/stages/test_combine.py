"""Several filters' scores of a text as one."""

from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.round import Combine
from capfilt.schema import SCORE
from capfilt.stages.combine import combined, combined_scores, scores_by_filter

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
    found = scores_by_filter(column([[(0.25, 0.5), (None, 0.75)], [(0.5, None)], []]), "itm")
    assert {name: given.tolist() for name, given in found.items()} == {
        "f0": [0.25, 0.5],
        "f1": [pytest.approx(np.nan, nan_ok=True)],
    }
