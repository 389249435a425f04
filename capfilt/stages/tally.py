"""Counts of a selection, added up chunk by chunk: what the report shows without reading the candidates again.

Counts what it is told; decides nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from capfilt.config.select import SelectConfig, Threshold
from capfilt.stages.combine import Float32Array
from capfilt.stages.policy import CODES, ORIGINS, Judged

THRESHOLDS = np.round(np.arange(0, 1.0001, 0.05), 2)
"""Where the keep-rate curves are taken: 0, 0.05 … 1."""
_FLOAT32 = THRESHOLDS.astype(np.float32)


@dataclass
class OfFilter:
    """One filter's scores: texts it saw, those it gave the score that it is judged by, those below its threshold."""

    threshold: Threshold
    texts: int = 0
    scored: int = 0
    below: int = 0
    score_sum: float = 0.0
    highest: float = -1.0

    def summary(self) -> dict[str, Any]:
        return {
            "score": self.threshold.score,
            "threshold": self.threshold.least,
            "scored": self.scored,
            "noise_ratio": _share(self.below, self.scored),
            "mean": _share(self.score_sum, self.scored),
        }


class Tally:
    """`summary()` after any number of `add()`."""

    def __init__(self) -> None:
        self.rows = self.healthy = self.kept_rows = self.contaminated = self.duplicates = 0
        self.reasons = np.zeros((len(ORIGINS), len(CODES)), dtype=np.int64)
        self.passing = np.zeros((len(ORIGINS), len(THRESHOLDS)), dtype=np.int64)
        self.scored = np.zeros(len(ORIGINS), dtype=np.int64)
        self.scored_below = np.zeros(len(ORIGINS), dtype=np.int64)
        self.score_sum = np.zeros(len(ORIGINS), dtype=np.float64)
        self.filters: dict[str, OfFilter] = {}
        self.highest = -1.0  # of all filters together

    def add(self, judged: Judged, reason: np.ndarray[Any, np.dtype[np.int8]], threshold: float) -> None:
        """Count the texts of one chunk, `reason` being their final codes."""
        codes = judged.origin.astype(np.int64) * len(CODES) + reason
        self.reasons += np.bincount(codes, minlength=self.reasons.size).reshape(self.reasons.shape)
        for number in range(len(ORIGINS)):
            score = judged.score[(judged.origin == number) & ~np.isnan(judged.score)]
            self.scored[number] += len(score)
            self.scored_below[number] += int((score < np.float32(threshold)).sum())
            self.score_sum[number] += float(score.sum(dtype=np.float64))
            self.highest = max(self.highest, float(score.max(initial=-1)))
            reached = np.bincount(
                np.searchsorted(THRESHOLDS.astype(np.float32), score, side="right"), minlength=len(THRESHOLDS) + 1
            )
            self.passing[number] += reached[::-1].cumsum()[::-1][1:]

    def add_filters(self, scores: Mapping[str, Float32Array], policy: SelectConfig) -> None:
        """Count what each filter gave the texts of one chunk, `combine.scores_by_filter`."""
        for name, given in scores.items():
            score = given[~np.isnan(given)]
            own = self.filters.setdefault(name, OfFilter(policy.of(name)))
            own.texts += len(given)
            own.scored += len(score)
            own.below += int((score < np.float32(own.threshold.least)).sum())
            own.score_sum += float(score.sum(dtype=np.float64))
            own.highest = max(own.highest, float(score.max(initial=-1)))

    def summary(self, *, each_filter: bool) -> dict[str, Any]:
        """`texts`, `noise_ratio`, `mean_score` and `curves` per origin that has texts; web and synthetic are always told.

        `filters`, with `each_filter`, tells the filters apart.
        """
        shown = [n for n, name in enumerate(ORIGINS) if name != "human" or self.reasons[n].any()]
        kept = CODES.index("kept")
        return {
            "rows": self.rows,
            "healthy_rows": self.healthy,
            "kept_rows": self.kept_rows,
            "kept_texts": int(self.reasons[:, kept].sum()),
            "duplicates": self.duplicates,
            "contaminated": self.contaminated,
            "texts": {
                ORIGINS[n]: {
                    "count": int(self.reasons[n].sum()),
                    "scored": int(self.scored[n]),
                    "kept": int(self.reasons[n, kept]),
                    "reasons": {code: int(count) for code, count in zip(CODES, self.reasons[n], strict=True) if count},
                }
                for n in shown
            },
            "noise_ratio": {ORIGINS[n]: _share(self.scored_below[n], self.scored[n]) for n in shown},
            "mean_score": {ORIGINS[n]: _share(self.score_sum[n], self.scored[n]) for n in shown},
            **({"filters": {name: own.summary() for name, own in sorted(self.filters.items())}} if each_filter else {}),
            "curves": {
                "threshold": THRESHOLDS.tolist(),
                **{ORIGINS[n]: [_share(count, self.scored[n]) for count in self.passing[n]] for n in shown},
            },
        }


def _share(part: float, whole: int) -> float | None:
    """Six digits: sums in another order of chunks cannot show."""
    return round(float(part) / int(whole), 6) if whole else None
