from typing import Any

import pytest

from capfilt.report.compare import measures, noise_kind_table, quality_table


def test_only_measures_that_exist_make_a_row() -> None:
    first: dict[str, Any] = {"retrieval": {"text_retrieval": {"r1": 0.2, "r5": 0.5}}}
    found = measures(first, {"captioning": {"cider_d": 1.3}})
    assert [(one.name, one.before, one.after) for one in found] == [
        ("TR R@1", 0.2, None),
        ("TR R@5", 0.5, None),
        ("CIDEr-D", None, 1.3),
    ]
    assert [one.change for one in found] == ["–"] * 3


def test_a_loss_is_shown_with_a_minus() -> None:
    (one,) = measures({"captioning": {"true": 0.5}}, {"captioning": {"true": 0.4, "true_interval": [0.3, 0.5]}})
    assert one.change == "−10.0 points"
    assert one.shown_interval(one.after_interval) == "30.0 – 50.0"


@pytest.mark.parametrize("quality", [None, 3, {}, {"web": None, "synthetic": []}, {"web": {"by_noise_kind": {}}}])
def test_quality_without_numbers_makes_no_kinds_and_no_error(quality: Any) -> None:
    assert noise_kind_table(quality) == ""
    assert "<script" not in quality_table(quality)


def test_counts_and_shares_both_become_per_cent() -> None:
    table = quality_table({"web": {"count": 200, "true": 1, "kept": 100, "precision": 1.0, "recall": 0.5}})
    assert "<td>0.5 %</td>" in table
    assert "<td>50.0 %</td>" in table
    assert "<td>100.0 %</td>" in table


def test_the_name_of_a_noise_kind_is_escaped() -> None:
    table = noise_kind_table({"web": {"by_noise_kind": {"<b>bold": {"count": 4, "kept": 1}}}})
    assert "&lt;b&gt;bold" in table
    assert "25 %" in table
