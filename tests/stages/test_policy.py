"""Policies on whole columns."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from capfilt.stages.policy import best_per_row


@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=4), max_size=8))
def test_the_best_text_of_each_row_is_the_first_of_the_greatest(rows: list[list[float]]) -> None:
    row = np.repeat(np.arange(len(rows)), [len(texts) for texts in rows]).astype(np.int64)
    flat = np.array([score for texts in rows for score in texts])
    expected = [i == texts.index(max(texts)) for texts in rows for i in range(len(texts))]
    assert best_per_row(row, flat, len(rows)).tolist() == expected
