"""benchmarks/families.py: filters together, whose errors are known."""

import numpy as np
import pytest
from families import KEPT_TRUE, _missed, _together

TRUE = [True] * 100 + [False] * 100
GOOD = np.r_[np.linspace(0.5, 1, 100), np.linspace(0, 0.4, 100)]
BLIND = np.r_[np.linspace(-1, 1, 100), np.linspace(-1, 1, 100)]


def test_errors_that_two_of_three_filters_find_are_not_missed_together() -> None:
    assert _missed(BLIND, TRUE)[1] == pytest.approx(KEPT_TRUE, abs=0.01)
    together = _together({"one": GOOD, "other": GOOD * 7 - 3, "blind": BLIND}, TRUE)
    missed = {how: _missed(scores, TRUE)[1] for how, scores in together.items()}
    assert (missed["min"], missed["vote"]) == (0, 0)
    assert 0 < missed["mean"] < KEPT_TRUE  # the blind one has its say there


def test_errors_that_each_filter_misses_alone_are_found_by_the_least_of_them() -> None:
    first = np.r_[np.ones(100), np.ones(50), np.zeros(50)]
    second = np.r_[np.ones(100), np.zeros(50), np.ones(50)] * 0.2 - 0.1
    assert [_missed(scores, TRUE)[1] for scores in (first, second)] == [0.5, 0.5]
    assert _missed(_together({"first": first, "second": second}, TRUE)["min"], TRUE) == (1, 0)


@pytest.mark.parametrize(("scores", "is_true"), [({"one": GOOD}, TRUE), ({"one": GOOD, "other": BLIND}, [False] * 200)])
def test_there_is_nothing_together_of_one_filter_or_without_a_true_text(
    scores: dict[str, np.ndarray], is_true: list[bool]
) -> None:
    assert _together(scores, is_true) == {}
