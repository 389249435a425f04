from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from capfilt.config.screen import LANGUAGES, Language
from capfilt.filters.rules.language import LanguageCheck, languages_of

TEXTS = {
    "en": ["a brown dog runs across the meadow", "Women's red leather shoes", "View of the old town and its castle"],
    "de": ["Ein brauner Hund läuft über die Wiese", "Blick auf die Altstadt von Heidelberg mit Schloss"],
    "fr": ["Un chien brun court dans la prairie", "Appartement à louer avec balcon"],
    "es": ["Un perro marrón corre por el prado", "Niños jugando en la arena"],
    "ru": ["Коричневый пёс бежит по лугу", "Красные женские туфли"],
    "zh": ["一只棕色的狗在草地上奔跑", "孩子们在沙滩上玩耍"],
    "ja": ["茶色の犬が草原を走っている"],
    "ar": ["كلب بني يركض في المرج"],
}
PAIRS = [(code, text) for code, texts in TEXTS.items() for text in texts]


@pytest.mark.parametrize(("code", "text"), PAIRS)
def test_a_text_passes_in_its_own_language_only(code: str, text: str) -> None:
    assert languages_of(text)[0][0] == code
    assert LanguageCheck([code], 0.05).passes(text)
    assert not LanguageCheck(["en" if code != "en" else "de"], 0.05).passes(text)


def test_one_of_several_languages_is_enough() -> None:
    check = LanguageCheck(["en", "de"], 0.3)
    assert check.passes(TEXTS["en"][0])
    assert check.passes(TEXTS["de"][0])
    assert not check.passes(TEXTS["fr"][0])


@pytest.mark.parametrize("text", ["", " ", "2019", "!!! :-)", "1280 × 720"])
def test_a_text_without_letters_is_in_no_language_and_passes(text: str) -> None:
    assert LanguageCheck(["en"], 0.9).passes(text)


def test_capitals_do_not_change_the_answer() -> None:
    assert languages_of("A BROWN DOG RUNS ACROSS THE MEADOW") == languages_of("a brown dog runs across the meadow")


@given(st.text(st.characters(), max_size=200))
def test_any_unicode_is_judged(text: str) -> None:
    assert LanguageCheck(["en"], 0.05).passes(text) in (True, False)


def test_threads_agree_with_one_another() -> None:
    texts = [text for _, text in PAIRS] * 40
    alone = [languages_of(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(languages_of, texts)) == alone


def test_a_code_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'en'"):
        Language(kind="language", languages=["eng"])
    assert all(code in LANGUAGES for code, _ in languages_of("a"))
