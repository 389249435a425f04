"""Rules on a carried column: is the number beyond its limit, is the text one of those listed.

Works on single Python values; knows no other column. A value that is not there never counts as 0 or as blank text: the rule's
`missing` decides.
"""

import math
import re
from collections.abc import Callable
from typing import Any, assert_never

from capfilt.config.screen import ColumnRule, MaxValue, MinValue, NotOneOf, OneOf


def column_check(rule: ColumnRule) -> Callable[[Any], bool]:
    """A function that says of a column's value whether the rule rejects the row."""
    when_missing = rule.missing == "reject"
    match rule:
        case MaxValue(value=limit):
            return _of_number(lambda value: value > limit, when_missing)
        case MinValue(value=limit):
            return _of_number(lambda value: value < limit, when_missing)
        case OneOf(values=values):
            listed = _pattern(values)
            return _of_text(lambda text: listed.fullmatch(text) is None, when_missing)
        case NotOneOf(values=values):
            listed = _pattern(values)
            return _of_text(lambda text: listed.fullmatch(text) is not None, when_missing)
        case _:
            assert_never(rule)


def number_of(value: Any) -> float | None:
    """The value as a number; None for null, NaN and a text that is no number."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def text_of(value: Any) -> str | None:
    """The value as a folded text, `2.0` and `True` as people write them: `2`, `true`; None for null, NaN and blank text."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        value = int(value) if value.is_integer() else value
    text = "" if value is None else value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join(text.split()).casefold() or None


def _of_number(rejects: Callable[[float], bool], when_missing: bool) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        number = number_of(value)
        return when_missing if number is None else rejects(number)

    return check


def _of_text(rejects: Callable[[str], bool], when_missing: bool) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        text = text_of(value)
        return when_missing if text is None else rejects(text)

    return check


def _pattern(values: list[str]) -> re.Pattern[str]:
    """Any of the values; `*` stands for any text, `?` for itself: LAION writes it for an unknown licence."""
    folded = [" ".join(value.split()).casefold() for value in values]
    return re.compile("|".join(re.escape(value).replace(r"\*", ".*") for value in folded), re.DOTALL)
