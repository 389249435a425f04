"""What several filters say of one text, as one score: their mean, their least, or the score that more than half of them reach.

Works on scores that are there; knows neither thresholds nor filters.
"""

from collections.abc import Sequence
from typing import Literal, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.config.round import Combine

Float32Array = npt.NDArray[np.float32]
ScoreName = Literal["itm", "itc"]
SCORE_NAMES: tuple[ScoreName, ...] = ("itm", "itc")


def combined_scores(scores: pa.Array | pa.ChunkedArray, name: ScoreName, how: Combine) -> Float32Array:
    """One number per text from its `scores` (list<schema.SCORE>), of the filters that gave a `name`; NaN where none did.

    A `vote` is the greatest score that more than half of them reach, so that it passes a threshold where they carry it.
    """
    scores = scores.combine_chunks() if isinstance(scores, pa.ChunkedArray) else scores
    counts = pc.fill_null(pc.list_value_length(scores), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    values = pc.cast(pc.struct_field(scores.flatten(), name), pa.float64()).to_numpy(zero_copy_only=False)
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


def scores_by_filter(scores: pa.Array | pa.ChunkedArray, name: ScoreName) -> dict[str, Float32Array]:
    """What each filter gave as `name`, text after text; NaN for a text to which it gave another score alone."""
    scores = scores.combine_chunks() if isinstance(scores, pa.ChunkedArray) else scores
    flat = scores.flatten()
    by = pc.struct_field(flat, "filter").dictionary_encode()
    values = pc.cast(pc.struct_field(flat, name), pa.float32()).to_numpy(zero_copy_only=False)
    of = by.indices.to_numpy(zero_copy_only=False)
    return {filter_name: values[of == number] for number, filter_name in enumerate(by.dictionary.to_pylist())}
