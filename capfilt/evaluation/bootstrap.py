"""Bootstrap intervals over images.

Knows nothing of what was measured.
"""

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
LEVEL = 0.95
DRAWS_AT_ONCE = 64


def interval_of_ratio(sums: Float64Array, counts: Float64Array, *, draws: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of sums.sum() / counts.sum(); per image a sum and a count."""
    found = _ratios([(sums, counts)], draws, seed)[0]
    return _percentiles(found)


def interval_of_mean_ratio(*ratios: tuple[Float64Array, Float64Array], draws: int, seed: int) -> tuple[float, float]:
    """As `interval_of_ratio`, of the mean of several ratios; a draw takes the same images for all of them."""
    return _percentiles(np.mean(_ratios(list(ratios), draws, seed), axis=0))


def _ratios(ratios: list[tuple[Float64Array, Float64Array]], draws: int, seed: int) -> list[Float64Array]:
    rng = np.random.default_rng(seed)
    images = len(ratios[0][0])
    found: list[list[Float64Array]] = [[] for _ in ratios]
    for first in range(0, draws, DRAWS_AT_ONCE):
        drawn = rng.integers(images, size=(min(DRAWS_AT_ONCE, draws - first), images))
        for values, (sums, counts) in zip(found, ratios, strict=True):
            values.append(sums[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1e-12))
    return [np.concatenate(values) for values in found]


def _percentiles(values: Float64Array) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
