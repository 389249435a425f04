"""Views: uids as DataComp's pairs of numbers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.errors import InputError
from capfilt.writers.view import packed, unpacked

uids = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")


@given(st.lists(uids))
def test_uids_round_trip(values: list[str]) -> None:
    assert unpacked(packed(pa.array(values, pa.string()))) == values


@given(st.lists(uids))
def test_sorted_pairs_are_sorted_uids(values: list[str]) -> None:
    assert unpacked(np.unique(packed(pa.array(values, pa.string())))) == sorted(set(values))


@pytest.mark.parametrize("values", [["abc"], ["g" * 32], ["0" * 31 + " "], ["00" * 15, "00" * 17]])
def test_other_uids_are_refused(values: list[str]) -> None:
    with pytest.raises(InputError, match="32 hex digits"):
        packed(pa.array(values))
