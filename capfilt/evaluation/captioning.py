"""CIDEr-D of captions against their references (Vedantam et al., arXiv:1411.5726, section 4 and appendix).

Computed as in the COCO caption evaluation, document frequencies from the references given; knows nothing of models. Tokens are
lower-case words in the manner of the Penn Treebank, punctuation left out; nothing is stemmed.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import exp, log, sqrt

LONGEST = 4
SIGMA = 6.0
SCALE = 10.0

_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))\b")
_TOKEN = re.compile(r"n't\b|'(?:s|m|d|re|ve|ll)\b|\w+(?:[-.,/]\w+)*")

Gram = tuple[str, ...]


def tokens(text: str) -> list[str]:
    """Words: "Don't panic, 3-D!" is do, n't, panic, 3-d."""
    return _TOKEN.findall(_CLITIC.sub(r" \1", text.lower().replace("\u2019", "'")))


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Score of each caption, 0 to 10, higher is better; their mean is CIDEr-D. An image's references are a list."""
    counted = [[_grams(tokens(text)) for text in texts] for texts in references]
    frequency: Counter[Gram] = Counter()
    for grams in counted:
        frequency.update(set().union(*grams) if grams else set())
    images = log(max(1, len(references)))
    scores: list[float] = []
    for caption, grams in zip(captions, counted, strict=True):
        own = _Vector(_grams(tokens(caption)), frequency, images)
        scores.append(SCALE * sum(own.similarity(_Vector(g, frequency, images)) for g in grams) / max(1, len(grams)))
    return scores


class _Vector:
    """tf-idf of the n-grams of one text, by length, with the norm of each length."""

    def __init__(self, grams: Counter[Gram], frequency: Counter[Gram], images: float) -> None:
        self.weights: list[dict[Gram, float]] = [{} for _ in range(LONGEST)]
        for gram, count in grams.items():
            self.weights[len(gram) - 1][gram] = count * (images - log(max(1, frequency[gram])))
        self.norms = [sqrt(sum(weight**2 for weight in weights.values())) for weights in self.weights]
        # The published code measures length in bigrams.
        self.length = sum(count for gram, count in grams.items() if len(gram) == 2)

    def similarity(self, reference: "_Vector") -> float:
        """Mean over lengths 1 … 4 of the clipped cosine, times the Gaussian of the difference in length."""
        total = 0.0
        for own, other, norm, other_norm in zip(self.weights, reference.weights, self.norms, reference.norms, strict=True):
            if norm and other_norm:
                total += sum(min(weight, other[gram]) * other[gram] for gram, weight in own.items() if gram in other) / (
                    norm * other_norm
                )
        return total / LONGEST * exp(-((self.length - reference.length) ** 2) / (2 * SIGMA**2))


def _grams(words: list[str]) -> Counter[Gram]:
    return Counter(tuple(words[at : at + n]) for n in range(1, LONGEST + 1) for at in range(len(words) - n + 1))
