from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from capfilt.config.screen import ColumnRule, ImageRule
from capfilt.filters.rules.columns import column_check

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.integers())


def rejects(value: Any, kind: str, /, **settings: Any) -> bool:
    rule: ColumnRule = TypeAdapter(ImageRule).validate_python({"kind": kind, "column": "c", **settings})
    return column_check(rule)(value)


@pytest.mark.parametrize(("value", "is_rejected"), [(0.5, False), (0.51, True), (1, True), ("0.9", True), (Decimal("0.6"), True)])
def test_max_value_rejects_what_is_greater(value: Any, is_rejected: bool) -> None:
    assert rejects(value, "max_value", value=0.5) is is_rejected


@pytest.mark.parametrize(("value", "is_rejected"), [(0.3, False), (0.29, True), (False, True), (" 0.31 ", False)])
def test_min_value_rejects_what_is_smaller(value: Any, is_rejected: bool) -> None:
    assert rejects(value, "min_value", value=0.3) is is_rejected


@pytest.mark.parametrize("value", [None, float("nan"), "", "unknown", [1]])
@pytest.mark.parametrize("kind", ["max_value", "min_value"])
def test_a_missing_number_passes_unless_the_rule_says_otherwise(kind: str, value: Any) -> None:
    assert not rejects(value, kind, value=0.5)
    assert rejects(value, kind, value=0.5, missing="reject")


@pytest.mark.parametrize(
    ("value", "is_listed"),
    [
        ("CC-BY", True),
        (" cc-by ", True),
        ("cc-by-nc", False),
        ("https://creativecommons.org/licenses/by/2.0/", True),
        ("?", True),
        ("x", False),
        (2.0, True),
        (True, True),
    ],
)
def test_texts_are_compared_without_case_and_with_a_star(value: Any, is_listed: bool) -> None:
    values = ["cc-by", "*creativecommons.org/licenses/by/*", "?", "2", "true"]
    assert rejects(value, "one_of", values=values) is not is_listed
    assert rejects(value, "not_one_of", values=values) is is_listed


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
def test_a_missing_text_is_none_of_the_listed_and_so_rejected_by_one_of_only(value: Any) -> None:
    assert rejects(value, "one_of", values=["a"])
    assert not rejects(value, "one_of", values=["a"], missing="pass")
    assert not rejects(value, "not_one_of", values=["a"])
    assert rejects(value, "not_one_of", values=["a"], missing="reject")


@given(ANYTHING)
def test_no_value_makes_a_rule_raise(value: Any) -> None:
    for kind in ("max_value", "min_value"):
        assert rejects(value, kind, value=0) in (True, False)
    for kind in ("one_of", "not_one_of"):
        assert rejects(value, kind, values=["a*"]) in (True, False)


@given(st.text(), st.lists(st.text(), min_size=1, max_size=4))
def test_a_value_is_listed_or_not(value: str, values: list[str]) -> None:
    is_out, is_in = (rejects(value, kind, values=values, missing="pass") for kind in ("one_of", "not_one_of"))
    assert is_out != is_in or not value.split()
