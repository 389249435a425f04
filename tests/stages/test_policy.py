"""Policies on whole columns."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from capfilt.schema import SCORE
from capfilt.stages.policy import best_per_row, mean_score


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=4), max_size=8))
def test_the_best_text_of_each_row_is_the_first_of_the_greatest(rows: list[list[float]]) -> None:
    row = np.repeat(np.arange(len(rows)), [len(texts) for texts in rows]).astype(np.int64)
    flat = np.array([score for texts in rows for score in texts])
    expected = [i == texts.index(max(texts)) for texts in rows for i in range(len(texts))]
    assert best_per_row(row, flat, len(rows)).tolist() == expected


def test_a_mean_leaves_out_filters_without_a_score() -> None:
    scores = [[(0.2, None), (0.4, None)], [], [(None, 0.5)], [(0.5, 0.1), (None, 0.3)]]
    column = pa.array([[{"filter": "f", "itm": itm, "itc": itc} for itm, itc in text] for text in scores], pa.list_(SCORE))
    np.testing.assert_allclose(mean_score(column, "itm"), [0.3, np.nan, np.nan, 0.5], rtol=1e-6)
    np.testing.assert_allclose(mean_score(column, "itc"), [np.nan, np.nan, 0.5, 0.2], rtol=1e-6)
