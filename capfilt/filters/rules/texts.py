"""Text rules: which one rejects a web text, and the text without personal data.

Judges one text at a time; knows neither its picture nor its row.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple, assert_never

from capfilt.config import screen as config
from capfilt.filters.rules.language import LanguageCheck
from capfilt.filters.rules.names import is_file_name
from capfilt.filters.rules.phrases import Boilerplate
from capfilt.filters.rules.pii import PiiFinder


class JudgedText(NamedTuple):
    """`text` as it may stay in the row; `rule` names what rejects it, None where all let it pass."""

    text: str
    rule: str | None


Check = Callable[[str], JudgedText]


class TextRules:
    """The rules of `screen.text`, ready to be asked; safe to call from several threads."""

    def __init__(self, rules: Sequence[config.TextRule]) -> None:
        self._checks = [_check(rule) for rule in rules]
        self._is_pii = [isinstance(rule, config.Pii) for rule in rules]

    def judge(self, text: str) -> JudgedText:
        """The first rule, in the order written, that rejects the text. Later ones are not asked, but `pii` always masks."""
        name: str | None = None
        for check, is_pii in zip(self._checks, self._is_pii, strict=True):
            if name is None or is_pii:
                text, found = check(text)
                name = name or found
        return JudgedText(text, name)


def _check(rule: config.TextRule) -> Check:
    match rule:
        case config.NotEmpty():
            return _named(rule.kind, lambda text: not text.strip())
        case config.NotFileName():
            return _named(rule.kind, is_file_name)
        case config.NotMarkup():
            return _named(rule.kind, has_markup)
        case config.Words(min=least, max=most):
            return _named(rule.kind, lambda text: not least <= len(text.split()) <= most)
        case config.Characters(min=least, max=most):
            return _named(rule.kind, lambda text: not least <= len(text.strip()) <= most)
        case config.Letters(min_share=least_share):
            return _named(rule.kind, lambda text: share_of_letters(text) < least_share)
        case config.Repetition(unit=unit, length=length, max_share=most_share):
            return _named(rule.kind, lambda text: share_of_repeats(text, unit, length) > most_share)
        case config.Language(languages=languages, min_confidence=confidence):
            language = LanguageCheck(languages, confidence)
            return _named(rule.kind, lambda text: not language.passes(text))
        case config.Boilerplate(lists=lists, phrases=phrases, min_words_left=words):
            return _of_list(rule.kind, Boilerplate(lists, phrases, words))
        case config.Pii(find=find, action=action):
            return _of_pii(rule.kind, PiiFinder(find), is_rejected=action == "reject")
        case _:
            assert_never(rule)


def _named(name: str, rejects: Callable[[str], bool]) -> Check:
    return lambda text: JudgedText(text, name if rejects(text) else None)


def _of_list(name: str, boilerplate: Boilerplate) -> Check:
    def check(text: str) -> JudgedText:
        found = boilerplate.found(text)
        return JudgedText(text, found and f"{name}:{found}")

    return check


def _of_pii(name: str, finder: PiiFinder, *, is_rejected: bool) -> Check:
    def check(text: str) -> JudgedText:
        masked, found = finder.masked(text)
        return JudgedText(masked, f"{name}:{found}" if found and is_rejected else None)

    return check


_TAG = re.compile(r"</?[a-z][a-z0-9]{0,14}(?:\s[^<>]{0,2000})?/?>|<!--", re.IGNORECASE)


def has_markup(text: str) -> bool:
    """True for a text with an HTML tag or comment; entities alone (`&amp;`) and `<3` are none."""
    return "<" in text and _TAG.search(text) is not None


def share_of_letters(text: str) -> float:
    """Letters, with the marks that belong to them, among all characters but white space; 1 for a blank text."""
    seen = [character for character in text if not character.isspace()]
    if not seen:
        return 1.0
    return sum(character.isalpha() or unicodedata.category(character).startswith("M") for character in seen) / len(seen)


def share_of_repeats(text: str, unit: str, length: int) -> float:
    """Share of the n-grams that repeat an earlier one: 1 - different / all; 0 for a text shorter than one n-gram."""
    units: Sequence[str] = text.casefold().split() if unit == "words" else " ".join(text.casefold().split())
    ngrams = [tuple(units[start : start + length]) for start in range(len(units) - length + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
