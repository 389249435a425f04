import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.evaluation.captioning import cider_d, tokens

WORDS = st.lists(st.sampled_from(["a", "red", "blue", "square", "on", "grass"]), max_size=8).map(" ".join)
IMAGES = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=4)


def straightforward(captions, references):
    """The formula of the paper's appendix, n by n, with dense vectors over the n-grams of everything."""

    def grams(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for caption, own_references in zip(captions, references, strict=True):
        total = 0.0
        for reference in own_references:
            for n in range(1, 5):
                names = sorted(set(grams(caption, n)) | set(grams(reference, n)))
                df = [sum(any(name in grams(r, n) for r in refs) for refs in references) for name in names]
                idf = [math.log(len(references) / max(1, count)) for count in df]
                c = [grams(caption, n)[name] * weight for name, weight in zip(names, idf, strict=True)]
                r = [grams(reference, n)[name] * weight for name, weight in zip(names, idf, strict=True)]
                norms = math.hypot(*c) * math.hypot(*r)
                length = max(0, len(caption.split()) - 1) - max(0, len(reference.split()) - 1)
                if norms:
                    total += sum(min(x, y) * y for x, y in zip(c, r, strict=True)) / norms * math.exp(-(length**2) / 72)
        scores.append(10 * total / 4 / len(own_references))
    return scores


@given(IMAGES)
def test_scores_are_those_of_a_straightforward_computation(images):
    captions, references = [caption for caption, _ in images], [texts for _, texts in images]
    assert cider_d(captions, references) == pytest.approx(straightforward(captions, references), abs=1e-9)


def test_a_caption_equal_to_its_only_reference_gets_ten():
    assert cider_d(
        ["a red square on grass", "one small blue ring"], [["a red square on grass"], ["one small blue ring"]]
    ) == pytest.approx([10, 10])


def test_one_of_two_words_by_hand():
    # Two images; both words of "red ring" are in one image's references only, so idf = ln 2 for each n-gram.
    # Unigrams: vectors (1, 0) and (1, 1) * ln 2, cosine 1 / sqrt 2. The caption has no bigram. Lengths in bigrams 0 and 1.
    (score, nothing) = cider_d(["red", "cow"], [["red ring"], ["blue star"]])
    assert score == pytest.approx(10 / 4 / math.sqrt(2) * math.exp(-1 / 72))
    assert nothing == 0


def test_a_word_that_all_references_share_is_worth_nothing():
    assert cider_d(["a", "a"], [["a dog"], ["a cat"]]) == [0, 0]


def test_repeating_a_word_does_not_pay():
    once, often = (cider_d([text, "x"], [["red ring here now"], ["x"]])[0] for text in ("red ring here now", "red red red red"))
    assert often < once / 2


def test_tokens_are_lower_case_words_without_punctuation():
    assert tokens("Don't panic, it's a 3-D \u201csquare\u201d (red)!") == [
        "do",
        "n't",
        "panic",
        "it",
        "'s",
        "a",
        "3-d",
        "square",
        "red",
    ]
    assert tokens(" ... ") == []
