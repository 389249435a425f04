"""What several filters say of one text, as one score: their mean, their least, or the score that more than half of them reach.

Works on scores that are there. Where filters have thresholds of their own, scores are compared by these; what reaches one is not
decided here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.config.select import OWN, Combine, ScoreName, SelectConfig, Threshold

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
SCORE_NAMES: tuple[ScoreName, ...] = ("itm", "itc")
_LEAST: dict[ScoreName, float] = {"itm": 0, "itc": -1}
_BELOW_OWN = float(np.nextafter(np.float32(OWN), np.float32(0)))


def judged_scores(scores: pa.Array | pa.ChunkedArray, policy: SelectConfig) -> Float32Array:
    """One number per text from its `scores` (list<schema.SCORE>), to be held against `policy.threshold`; NaN where there is none.

    With `min` it reaches the threshold where each filter's own score reaches that filter's own, with `vote` where those of more
    than half do; a filter without the score that it is judged by has no say.
    """
    scores = _plain(scores)
    counts = _counts(scores)
    names, of = _filters(scores)
    values = np.full(len(of), np.nan)
    for number, name in enumerate(names):
        threshold, is_its = policy.of(name), of == number
        own = _values(scores, threshold.score)[is_its]
        values[is_its] = relative(own, threshold) if policy.differs else own
    return _combine(counts, values, policy.combine)


def judged_score(scores: Mapping[str, float], policy: SelectConfig) -> float:
    """`judged_scores` of one text, from what each filter, by its name, gave as the score that it is judged by; at least one."""
    values = list(scores.values())
    if policy.differs:
        values = [float(relative(np.array([value]), policy.of(name))[0]) for name, value in scores.items()]
    return combined(values, policy.combine)


def own_scores(scores: Sequence[Mapping[str, Any]] | None, policy: SelectConfig) -> dict[str, float]:
    """Of one text's `scores`, what each filter gave as the score that it is judged by, where it gave one."""
    found = ((str(one["filter"]), one[policy.of(str(one["filter"])).score]) for one in scores or () if one)
    return {name: value for name, value in found if value is not None}


def relative(values: Float64Array, threshold: Threshold) -> Float64Array:
    """Scores on the scale on which 0 is the least there can be, 0.5 `threshold` and 1 the greatest, so that filters compare.

    Float32 scores reach 0.5 exactly where they reach the threshold, also once this is rounded to float32.
    """
    least, own = _LEAST[threshold.score], float(np.float32(threshold.least))
    above = OWN + (1 - OWN) * (values - own) / max(1 - own, 1e-12)
    below = np.minimum(OWN * (values - least) / max(own - least, 1e-12), _BELOW_OWN)
    return np.clip(np.where(values < own, below, np.maximum(above, OWN)), 0, 1)


def combined_scores(scores: pa.Array | pa.ChunkedArray, name: ScoreName, how: Combine) -> Float32Array:
    """One number per text from its `scores` (list<schema.SCORE>), of the filters that gave a `name`; NaN where none did.

    A `vote` is the greatest score that more than half of them reach, so that it passes a threshold where they carry it.
    """
    scores = _plain(scores)
    return _combine(_counts(scores), _values(scores, name), how)


def _combine(counts: npt.NDArray[np.int64], values: Float64Array, how: Combine) -> Float32Array:
    """One number per text, of `counts` values each, NaN being none."""
    is_there = ~np.isnan(values)
    text, values = np.repeat(np.arange(len(counts)), counts)[is_there], values[is_there]
    number = np.bincount(text, minlength=len(counts))
    out = np.full(len(counts), np.nan)
    match how:
        case "mean":
            total = np.bincount(text, weights=values, minlength=len(counts))
            np.divide(total, number, out=out, where=number > 0)
        case "min" | "vote":
            falling = values[np.lexsort((-values, text))]
            last = number - 1 if how == "min" else number // 2
            out[number > 0] = falling[(np.cumsum(number) - number + last)[number > 0]]
        case _ as unreachable:
            assert_never(unreachable)
    return out.astype(np.float32)


def combined(values: Sequence[float], how: Combine) -> float:
    """`combined_scores` of one text, from the scores it has, at least one."""
    match how:
        case "mean":
            return sum(values) / len(values)
        case "min":
            return min(values)
        case "vote":
            return sorted(values, reverse=True)[len(values) // 2]
        case _ as unreachable:
            assert_never(unreachable)


def scores_by_filter(scores: pa.Array | pa.ChunkedArray, policy: SelectConfig) -> dict[str, Float32Array]:
    """What each filter gave as the score that it is judged by, text after text; NaN for a text to which it gave another alone."""
    scores = _plain(scores)
    names, of = _filters(scores)
    return {name: _values(scores, policy.of(name).score)[of == number].astype(np.float32) for number, name in enumerate(names)}


def _plain(scores: pa.Array | pa.ChunkedArray) -> pa.Array:
    return scores.combine_chunks() if isinstance(scores, pa.ChunkedArray) else scores


def _counts(scores: pa.Array) -> npt.NDArray[np.int64]:
    counts: npt.NDArray[np.int64] = pc.fill_null(pc.list_value_length(scores), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return counts


def _filters(scores: pa.Array) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The filters' names, and which of them each score is of."""
    by = pc.struct_field(scores.flatten(), "filter").dictionary_encode()
    return by.dictionary.to_pylist(), by.indices.to_numpy(zero_copy_only=False)


def _values(scores: pa.Array, name: ScoreName) -> Float64Array:
    values: Float64Array = pc.cast(pc.struct_field(scores.flatten(), name), pa.float64()).to_numpy(zero_copy_only=False)
    return values
