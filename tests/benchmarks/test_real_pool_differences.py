"""benchmarks/real_pool_differences.py: differences of arms that are known."""

import numpy as np
from real_pool_differences import K, differences, found_by

from capfilt.evaluation.retrieval import Ranks

OWNER = np.repeat(np.arange(40), 2)


def ranks(of_text: int, of_image: int) -> Ranks:
    return Ranks(np.full(40, of_text), np.full(80, of_image))


def test_an_arm_that_finds_every_picture_where_raw_finds_none_is_better_by_one_without_doubt():
    found = {"raw": found_by(ranks(K, K), OWNER), "both": found_by(ranks(0, 0), OWNER)}
    told = differences(found, np.full(40, 2.0))
    assert told["raw"] == {"mean_recall_at_10": 0.0, "mean_rank_of_picture": K + 1}
    assert told["both"]["mean_recall_at_10"] == 1.0
    assert told["both"]["more_than_raw"] == {"mean_recall_at_10": [1.0, 1.0], "mean_rank_of_picture": [-K, -K]}


def test_an_arm_that_gains_as_many_pictures_as_it_loses_has_zero_in_its_interval():
    half = np.arange(40) % 2 == 0
    raw = Ranks(np.where(half, 0, K), np.where(half[OWNER], 0, K))
    own = Ranks(np.where(half, K, 0), np.where(half[OWNER], K, 0))
    told = differences({"raw": found_by(raw, OWNER), "web": found_by(own, OWNER)}, np.full(40, 2.0))
    low, high = told["web"]["more_than_raw"]["mean_recall_at_10"]
    assert low < 0 < high
    assert told["web"]["mean_recall_at_10"] == told["raw"]["mean_recall_at_10"] == 0.5
