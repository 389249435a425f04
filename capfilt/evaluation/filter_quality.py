"""How well a filter tells true texts from false ones: precision, recall, ROC AUC, noise ratio; web and synthetic texts apart.

Reads scores that are in the candidates table; knows nothing of models or thresholds' reasons.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from capfilt.config.select import SelectConfig
from capfilt.evaluation.truth import Truth, read_rows
from capfilt.stages.combine import judged_score, own_scores

Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Metrics = dict[str, Any]
_SYNTHETIC_JUDGED = ("true_before", "true_after", "precision", "recall", "roc_auc", "false_count", "false_rejected")


@dataclass(frozen=True)
class Judged:
    """One scored text with its truth; None: nobody knows (a synthetic text about a real picture)."""

    origin: str
    noise_kind: str
    score: float
    is_true: bool | None


def filter_quality(
    candidates: Sequence[str],
    truth: Mapping[str, Truth],
    *,
    policy: SelectConfig,
    selection: str | None = None,
) -> Metrics:
    """Metrics of the texts that were scored and whose row the truth knows; a text is kept where `policy`'s score reaches its
    threshold.

    A row is known by its url or its uid. What needs a truth that nobody knows is None.

    The noise ratio is the share of texts that the filter rejects (BLIP Table 4). Several filters are one as `policy` combines
    them; then, or with several captioners, `missed` tells each pair of them apart (`missed_matrix`). With `selection`, also how
    many texts of the finished data set are true.
    """
    rows = [row for path in candidates for row in read_rows(path, ("row_id", "uid", "url", "captions"))]
    judged, threshold = list(_judged(rows, truth, policy)), policy.threshold
    web = [text for text in judged if text.origin == "web"]
    synthetic = [text for text in judged if text.origin == "synthetic"]
    found: Metrics = {
        "scored_by": _named(rows),
        "score": policy.score,
        "threshold": threshold,
        "noise_ratio": {"web": _noise_ratio(web, threshold), "synthetic": _noise_ratio(synthetic, threshold)},
        "web": _web(web, threshold),
        "synthetic": _synthetic(synthetic, threshold),
    }
    matrix = missed_matrix(rows, truth, policy=policy)
    if len(matrix) > 1 or any(len(filters) > 1 for filters in matrix.values()):
        found["missed"] = matrix
    if selection is not None:
        found["dataset"] = _dataset(rows, truth, selection)
    return found


def _named(rows: Iterable[Mapping[str, Any]]) -> str:
    """The filters, in the order in which they scored."""
    scores = (score for row in rows for caption in row["captions"] or [] for score in caption["scores"] or [])
    return ", ".join(dict.fromkeys(str(score["filter"]) for score in scores))


TOGETHER = "(together)"
"""In a matrix of missed errors, the column of all filters combined."""


def missed_matrix(
    rows: Iterable[Mapping[str, Any]],
    truth: Mapping[str, Truth],
    *,
    policy: SelectConfig,
) -> dict[str, dict[str, Metrics]]:
    """Captioner A x filter B: which of A's false synthetic texts B lets pass (BLIP Table 4, for any number of models).

    `found[A][B]` holds `score` and `threshold` (what `policy` judges B by), `count`, `true` and `false` (texts of A that B scored
    and whose truth is known), `missed` (share of the false ones that reach the threshold), `kept_true` (that of the true ones)
    and `roc_auc`, each None where it has no text to speak of. B `(together)` is all filters as `policy` combines them, where
    there are several. A pair without a judged text has no entry.

    Args:
        rows: Of candidates, with `uid`, `url` and `captions`.
    """
    told: dict[str, dict[str, list[tuple[float, bool]]]] = {}
    for row in rows:
        known = _known(row, truth)
        for caption in (row["captions"] or []) if known is not None else ():
            is_true = known.is_true(caption["text"]) if known is not None and caption["origin"] == "synthetic" else None
            if is_true is None:
                continue
            scores = own_scores(caption["scores"], policy)
            together = {TOGETHER: judged_score(scores, policy)} if len(scores) > 1 else {}
            for name, value in (scores | together).items():
                told.setdefault(caption["captioner"], {}).setdefault(name, []).append((value, is_true))

    def judged_by(name: str) -> dict[str, Any]:
        own = policy.of(name)
        score, threshold = (policy.score, policy.threshold) if name == TOGETHER else (own.score, own.least)
        return {"score": score, "threshold": threshold}

    return {
        captioner: {name: judged_by(name) | _missed(texts, judged_by(name)["threshold"]) for name, texts in filters.items()}
        for captioner, filters in told.items()
    }


def _missed(texts: Sequence[tuple[float, bool]], threshold: float) -> Metrics:
    scores_N, true_N = np.array([value for value, _ in texts], dtype=np.float64), np.array([is_true for _, is_true in texts])
    is_kept_N = scores_N.astype(np.float32) >= np.float32(threshold)  # as in `_arrays`
    return {
        "count": len(texts),
        "true": int(true_N.sum()),
        "false": int((~true_N).sum()),
        "missed": None if true_N.all() else float(is_kept_N[~true_N].mean()),
        "kept_true": float(is_kept_N[true_N].mean()) if true_N.any() else None,
        "roc_auc": roc_auc(scores_N, true_N),
    }


def roc_auc(scores: Float64Array, is_positive: BoolArray) -> float | None:
    """Probability that a positive scores above a negative, ties counting half; None where one of the two is missing."""
    positives = int(is_positive.sum())
    negatives = len(is_positive) - positives
    if not positives or not negatives:
        return None
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2  # 1-based, of each group of equal scores
    return float((mean_rank[group][is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def precision_recall(is_kept: BoolArray, is_true: BoolArray) -> tuple[float | None, float | None]:
    """Share of the kept that are true, share of the true that are kept; None where there are none."""
    both = float((is_kept & is_true).sum())
    return (both / is_kept.sum() if is_kept.any() else None), (both / is_true.sum() if is_true.any() else None)


def _judged(rows: Iterable[dict[str, Any]], truth: Mapping[str, Truth], policy: SelectConfig) -> Iterable[Judged]:
    for row in rows:
        known = _known(row, truth)
        if known is None:
            continue
        for caption in row["captions"] or []:
            scores = own_scores(caption["scores"], policy)
            if scores:
                yield Judged(caption["origin"], known.noise_kind, judged_score(scores, policy), _is_true(caption, known))


def _known(row: Mapping[str, Any], truth: Mapping[str, Truth]) -> Truth | None:
    return truth.get(row["url"]) or truth.get(row["uid"])


def _is_true(caption: dict[str, Any], known: Truth) -> bool | None:
    return known.text_is_true if caption["origin"] == "web" else known.is_true(caption["text"])


def _arrays(texts: Sequence[Judged], threshold: float) -> tuple[Float64Array, BoolArray, BoolArray]:
    """Scores, kept, true (False where nobody knows)."""
    scores = np.array([text.score for text in texts], dtype=np.float64)
    # float32, as in the table and in `select`: 0.7 there is not 0.7 here.
    is_kept = scores.astype(np.float32) >= np.float32(threshold)
    return scores, is_kept, np.array([text.is_true for text in texts], dtype=bool)


def _noise_ratio(texts: Sequence[Judged], threshold: float) -> float | None:
    return 1 - float(_arrays(texts, threshold)[1].mean()) if texts else None


def _web(texts: Sequence[Judged], threshold: float) -> Metrics:
    scores, is_kept, is_true = _arrays(texts, threshold)
    precision, recall = precision_recall(is_kept, is_true)
    kinds = np.array([text.noise_kind for text in texts], dtype=object)
    by_kind: dict[str, Metrics] = {}
    for kind in sorted(set(kinds.tolist())):
        is_kind = kinds == kind
        # A kind's false texts against all true ones: within a kind nearly all texts are the one or the other.
        compared = is_true | is_kind
        by_kind[kind] = {
            "count": int(is_kind.sum()),
            "true": int(is_true[is_kind].sum()),
            "kept": int(is_kept[is_kind].sum()),
            "kept_share": float(is_kept[is_kind].mean()),
            "roc_auc": roc_auc(scores[compared], is_true[compared]),
        }
    return {
        "count": len(texts),
        "true": int(is_true.sum()),
        "kept": int(is_kept.sum()),
        "precision": precision,
        "recall": recall,
        "roc_auc": roc_auc(scores, is_true),
        "by_noise_kind": by_kind,
    }


def _synthetic(texts: Sequence[Judged], threshold: float) -> Metrics:
    scores, is_kept, is_true = _arrays(texts, threshold)
    counts = {"count": len(texts), "kept": int(is_kept.sum())}
    if any(text.is_true is None for text in texts):
        return counts | dict.fromkeys(_SYNTHETIC_JUDGED)
    precision, recall = precision_recall(is_kept, is_true)
    return {
        **counts,
        "true_before": float(is_true.mean()) if texts else None,
        "true_after": precision,
        "precision": precision,
        "recall": recall,
        "roc_auc": roc_auc(scores, is_true),
        "false_count": int((~is_true).sum()),
        "false_rejected": int((~is_true & ~is_kept).sum()),
    }


def _dataset(rows: Iterable[dict[str, Any]], truth: Mapping[str, Truth], selection: str) -> Metrics:
    """Texts of the data set, by origin: how many, and how many of them true."""
    kept_of = {row["row_id"]: row["kept"] for row in read_rows(selection, ("row_id", "kept"))}
    counts: dict[str, list[bool | None]] = {"web": [], "synthetic": []}
    for row in rows:
        known = _known(row, truth)
        kept = kept_of.get(row["row_id"]) or []
        if known is None:
            continue
        for caption, is_kept in zip(row["captions"] or [], kept, strict=False):
            if is_kept and caption["origin"] in counts:
                counts[caption["origin"]].append(_is_true(caption, known))
    everything = [is_true for values in counts.values() for is_true in values]
    found: Metrics = {origin: _share(values) for origin, values in counts.items()}
    return {**found, "all": _share(everything)}


def _share(values: Sequence[bool | None]) -> Metrics:
    judged = [value for value in values if value is not None]
    if len(judged) < len(values):
        return {"count": len(values), "true": None, "true_share": None}
    return {"count": len(values), "true": sum(judged), "true_share": sum(judged) / len(judged) if judged else None}
