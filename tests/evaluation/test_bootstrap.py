import numpy as np
import pytest

from capfilt.evaluation.bootstrap import interval_of_mean_ratio, interval_of_ratio


def test_the_interval_is_that_of_the_normal_approximation_for_many_images():
    hits = (np.arange(400) % 4 == 0).astype(float)
    low, high = interval_of_ratio(hits, np.ones(400), draws=4000, seed=0)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - half, abs=0.006)
    assert high == pytest.approx(0.25 + half, abs=0.006)


def test_the_same_seed_gives_the_same_interval():
    hits = np.random.default_rng(0).random(50)
    ask = [interval_of_ratio(hits, np.ones(50), draws=100, seed=seed) for seed in (1, 1, 2)]
    assert ask[0] == ask[1] != ask[2]


def test_images_with_more_texts_weigh_more():
    assert interval_of_ratio(np.array([3.0, 0.0]), np.array([3.0, 0.0]), draws=50, seed=0)[1] == 1


def test_a_draw_takes_the_same_images_for_both_directions():
    # What one direction misses the other finds, so that their mean never moves.
    hits = np.array([0.0, 1.0, 1.0, 0.0])
    assert interval_of_mean_ratio((hits, np.ones(4)), (1 - hits, np.ones(4)), draws=200, seed=0) == (0.5, 0.5)
