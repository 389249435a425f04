"""Retrieval both ways: ITC compares all with all, ITM re-ranks the best k (BLIP section 5.1).

Knows how a model is asked, not what it looks like; nothing of files.

Axes at the end of names: N images, M texts, Q queries, C candidates, P truths (query, candidate), k re-ranked candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
ItmLogits = Callable[[Int64Array, Int64Array], Float32Array]
"""(image of each pair, text of each pair) -> logit of "match"; pairs come sorted by image."""
QUERIES_AT_ONCE = 256


@dataclass(frozen=True)
class Ranks:
    """Place of the truth, 0 is first: per image that of its best placed text, per text that of its image."""

    of_text_N: Int64Array
    of_image_M: Int64Array


def rank_by_itc(sims_NM: Float32Array, image_of_text_M: Int64Array) -> Ranks:
    """Ranks by cosine alone."""
    texts_M = np.arange(len(image_of_text_M))
    by_pair = _ranks(sims_NM, image_of_text_M, texts_M)
    return Ranks(_best(by_pair, image_of_text_M, len(sims_NM)), _ranks(sims_NM.T, texts_M, image_of_text_M))


def rank_by_itm(sims_NM: Float32Array, image_of_text_M: Int64Array, top_k: int, itm_logits: ItmLogits) -> Ranks:
    """The top k by cosine in the order of ITM logit + cosine, as BLIP's evaluation does; behind them all others by cosine.

    A pair that both directions ask for is scored once.
    """
    images, texts = sims_NM.shape
    texts_M = np.arange(texts)
    top_Nk, top_Mk = _top(sims_NM, min(top_k, texts)), _top(sims_NM.T, min(top_k, images))
    asked_Nk = np.arange(images)[:, None] * texts + top_Nk
    asked_Mk = top_Mk * texts + texts_M[:, None]
    pairs, at = np.unique(np.concatenate([asked_Nk.ravel(), asked_Mk.ravel()]), return_inverse=True)
    scores = (itm_logits(pairs // texts, pairs % texts) + sims_NM.ravel()[pairs])[at]
    scores_Nk = scores[: asked_Nk.size].reshape(asked_Nk.shape)
    scores_Mk = scores[asked_Nk.size :].reshape(asked_Mk.shape)
    by_cosine = rank_by_itc_pairs(sims_NM, image_of_text_M)
    text_ranks = _reranked(by_cosine[0], top_Nk, scores_Nk, image_of_text_M, texts_M)
    image_ranks = _reranked(by_cosine[1], top_Mk, scores_Mk, texts_M, image_of_text_M)
    return Ranks(_best(text_ranks, image_of_text_M, images), image_ranks)


def rank_by_itc_pairs(sims_NM: Float32Array, image_of_text_M: Int64Array) -> tuple[Int64Array, Int64Array]:
    """[M], [M]: of each text among all texts for its image, and of its image among all images for it."""
    texts_M = np.arange(len(image_of_text_M))
    return _ranks(sims_NM, image_of_text_M, texts_M), _ranks(sims_NM.T, texts_M, image_of_text_M)


def recalls(ranks: Int64Array, at: Sequence[int]) -> dict[str, float]:
    """Share of queries whose truth is among the first k: {"r1": …}."""
    return {f"r{k}": float((ranks < k).mean()) for k in at}


def _ranks(scores_QC: Float32Array, query_P: Int64Array, candidate_P: Int64Array) -> Int64Array:
    """[P]: candidates before the truth; among equal scores the lower index comes first."""
    found = np.empty(len(query_P), dtype=np.int64)
    columns_C = np.arange(scores_QC.shape[1])
    for start in range(0, len(query_P), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        rows = scores_QC[query_P[part]]
        truth = rows[np.arange(len(rows)), candidate_P[part]][:, None]
        is_before = (rows > truth) | ((rows == truth) & (columns_C < candidate_P[part][:, None]))
        found[part] = is_before.sum(1)
    return found


def _top(scores_QC: Float32Array, k: int) -> Int64Array:
    """[Q, k], best first, ties by index: the same order that `_ranks` counts."""
    return np.argsort(-scores_QC, axis=1, kind="stable")[:, :k].astype(np.int64)


def _reranked(
    rank_P: Int64Array, top_Qk: Int64Array, scores_Qk: Float32Array, query_P: Int64Array, candidate_P: Int64Array
) -> Int64Array:
    """The truth's place among the re-ranked where it is one of them, else its place by cosine."""
    k = top_Qk.shape[1]
    order = np.argsort(top_Qk, axis=1, kind="stable")  # by index, so that ties fall as in `_ranks`
    index_Qk, sorted_Qk = np.take_along_axis(top_Qk, order, 1), np.take_along_axis(scores_Qk, order, 1)
    is_inside = rank_P < k
    place_P = (index_Qk[query_P[is_inside]] == candidate_P[is_inside][:, None]).argmax(1)
    found = rank_P.copy()
    found[is_inside] = _ranks(sorted_Qk, query_P[is_inside], place_P)
    return found


def _best(rank_M: Int64Array, image_of_text_M: Int64Array, images: int) -> Int64Array:
    best_N = np.full(images, np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(best_N, image_of_text_M, rank_M)
    return best_N
