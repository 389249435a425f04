"""The policies: which texts of each row are wanted, from scores that are already in the table.

Works on whole columns; knows nothing about duplicates, evaluation sets or files.
"""

from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.config.select import SelectConfig
from capfilt.schema import REASONS
from capfilt.stages.combine import judged_scores

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

ORIGINS = ("web", "synthetic", "human")
CODES = tuple(REASONS)
CODE = {name: number for number, name in enumerate(CODES)}

POLICY_COLUMNS = ("status", *(f"captions.list.element.{name}" for name in ("origin", "rule", "error", "scores")))
"""What a policy reads of a candidates file; texts are not among them."""


@dataclass(frozen=True)
class Judged:
    """The texts of one table, flat. `row[i]` is text i's row number, `reason[i]` a number in CODES: `kept` where it is wanted.

    `score` is what the policy judges by (`SelectConfig.score`), its filters combined, NaN where there is none; `best[row]`
    the greatest `score` of a wanted text, -1 where none is.
    """

    counts: IntArray
    row: IntArray
    origin: npt.NDArray[np.int8]
    score: Float32Array
    reason: npt.NDArray[np.int8]
    best: Float32Array


def judge(table: pa.Table, config: SelectConfig) -> Judged:
    """Apply `config.policy` to every row. What is wrong with a text is told before its score: row, rule, error, threshold."""
    captions = _plain(table["captions"])
    counts = pc.fill_null(pc.list_value_length(captions), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    texts = captions.flatten()
    origin = (
        pc.index_in(pc.struct_field(texts, "origin"), value_set=pa.array(ORIGINS)).to_numpy(zero_copy_only=False).astype(np.int8)
    )
    score = judged_scores(pc.struct_field(texts, "scores"), config)
    is_ok = _mask(pc.equal(_plain(table["status"]), "ok"))[row]
    has_rule = _mask(pc.is_valid(pc.struct_field(texts, "rule")))
    has_error = _mask(pc.is_valid(pc.struct_field(texts, "error"))) | np.isnan(score)
    # Both sides as float32: a score of exactly 0.7 passes a threshold of 0.7.
    passes = is_ok & ~has_rule & ~has_error & (score >= np.float32(config.threshold))
    wanted = _wanted(config, passes, row, origin, score, len(counts))
    reason = np.select(
        [~is_ok, has_rule, has_error, ~passes, ~wanted],
        [CODE["row_not_ok"], CODE["rule"], CODE["error"], CODE["below_threshold"], CODE["not_chosen"]],
        CODE["kept"],
    ).astype(np.int8)
    best = np.full(len(counts), -1, dtype=np.float32)
    np.maximum.at(best, row[wanted], score[wanted])
    return Judged(counts, row, origin, score, reason, best)


def _wanted(
    config: SelectConfig, passes: BoolArray, row: IntArray, origin: npt.NDArray[np.int8], score: Float32Array, rows: int
) -> BoolArray:
    is_web = origin == ORIGINS.index("web")
    match config.policy:
        case "both":
            return passes
        case "web":
            only_web: BoolArray = passes & is_web
            return only_web
        case "synthetic":
            only_synthetic: BoolArray = passes & (origin == ORIGINS.index("synthetic"))
            return only_synthetic
        case "web_else_synthetic":
            has_web = np.bincount(row[passes & is_web], minlength=rows) > 0
            wanted: BoolArray = passes & (is_web | ~has_web[row])
            return wanted
        case "best":
            return passes & best_per_row(row, np.where(passes, score, -1), rows)
        case other:
            assert_never(other)


def best_per_row(row: IntArray, score: npt.NDArray[Any], rows: int) -> BoolArray:
    """One True per row that has a text: the greatest score, ties to the first. `row` must ascend."""
    order = np.lexsort((np.arange(len(row)), -score, row))
    first = np.searchsorted(row[order], np.flatnonzero(np.bincount(row, minlength=rows)))
    chosen = np.zeros(len(row), dtype=np.bool_)
    chosen[order[first]] = True
    return chosen


def _plain(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _mask(values: pa.Array) -> BoolArray:
    mask: BoolArray = pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(np.bool_)
    return mask
