import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from capfilt.evaluation.retrieval import rank_by_itc, rank_by_itm, recalls


def by_sorting(scores, truths):
    """Place of the best truth in a stable sort, best first: the plain way."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return min(order.index(truth) for truth in truths)


@st.composite
def questions(draw):
    """Cosines with many ties, and which image each text belongs to; every image has a text."""
    images = draw(st.integers(1, 6))
    image_of_text = [*range(images), *draw(st.lists(st.integers(0, images - 1), max_size=6))]
    shape = (images, len(image_of_text))
    values = st.integers(-3, 3).map(lambda value: value / 4)
    sims = draw(hnp.arrays(np.float32, shape, elements=values))
    itm = draw(hnp.arrays(np.float32, shape, elements=values))
    return sims, np.array(image_of_text), itm


@given(questions())
def test_ranks_by_cosine_are_those_of_a_stable_sort(question):
    sims, image_of_text, _ = question
    ranks = rank_by_itc(sims, image_of_text)
    assert ranks.of_text_N.tolist() == [by_sorting(row, np.flatnonzero(image_of_text == i)) for i, row in enumerate(sims)]
    assert ranks.of_image_M.tolist() == [by_sorting(column, [image_of_text[j]]) for j, column in enumerate(sims.T)]


@given(questions(), st.integers(1, 13))
def test_ranks_by_itm_are_those_of_blips_score_matrix(question, k):
    """Logit + cosine for the top k, -100 for the others; where BLIP leaves those in any order we keep that of the cosine."""
    sims, image_of_text, itm = question

    def score_matrix(rows, logits):
        scores = rows.astype(np.float64) - 100
        for query, row in enumerate(rows):
            top = np.argsort(-row, kind="stable")[:k]
            scores[query, top] = (logits[query] + row)[top]
        return scores

    ranks = rank_by_itm(sims, image_of_text, k, lambda images, texts: itm[images, texts])
    i2t, t2i = score_matrix(sims, itm), score_matrix(sims.T, itm.T)
    assert ranks.of_text_N.tolist() == [by_sorting(row, np.flatnonzero(image_of_text == i)) for i, row in enumerate(i2t)]
    assert ranks.of_image_M.tolist() == [by_sorting(row, [image_of_text[j]]) for j, row in enumerate(t2i)]


def test_no_pair_is_scored_twice():
    asked = []

    def logits(images, texts):
        asked.extend(zip(images.tolist(), texts.tolist(), strict=True))
        return np.zeros(len(images), dtype=np.float32)

    rank_by_itm(np.eye(5, dtype=np.float32), np.arange(5), 2, logits)
    assert len(asked) == len(set(asked))
    assert asked == sorted(asked)
    assert {(i, i) for i in range(5)} <= set(asked)


def test_itm_decides_among_the_top_k_only():
    sims = np.array([[0.9, 0.8, 0.7]], dtype=np.float32)
    logits = np.array([0.0, 5.0, 50.0], dtype=np.float32)
    # Every image has texts 0 and 1 in its top 2; ITM prefers text 1. Text 2 has the best logit and is never asked.
    ranks = rank_by_itm(np.repeat(sims, 3, 0), np.array([1, 0, 2]), 2, lambda images, texts: logits[texts])
    assert ranks.of_text_N.tolist() == [0, 1, 2]


def test_recall_counts_truths_among_the_first_k():
    assert recalls(np.array([0, 1, 4, 9, 30]), [1, 5, 10]) == pytest.approx({"r1": 0.2, "r5": 0.6, "r10": 0.8})
