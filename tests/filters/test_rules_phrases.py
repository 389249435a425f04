import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.filters.rules.phrases import LISTS, Boilerplate

EVERY_LIST = Boilerplate(["page", "stock", "shop"], [], min_words_left=2)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Click here to enlarge image", "page"),
        ("click to view larger image", "page"),
        ("Image may contain: 2 people, people standing and outdoor", "page"),
        ("Photo not available", "page"),
        ("No image available", "page"),
        ("image is loading...", "page"),
        ("Follow us on Facebook", "page"),
        ("Rooster Royalty Free Stock Photos", "stock"),
        ("Stock photo", "stock"),
        ("Shutterstock", "stock"),
        ("$19.99 – Free Shipping!", "shop"),
        ("50% OFF", "shop"),
        ("Buy now", "shop"),
        ("Size: S, M, L", "shop"),
        ("SKU: AB-1234", "shop"),
        ("www.example.com", "shop"),
    ],
)
def test_a_text_of_phrases_is_rejected_by_the_list_they_stand_in(text: str, name: str) -> None:
    assert EVERY_LIST.found(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dog",
        "a brown dog",
        "Empty modern meeting room Royalty Free Stock Photo",
        "Load image into Gallery viewer, blue ceramic vase",
        "Woman clicks her pen",
        "The stockings were hung by the chimney",
        "Buy Winser London Wool Jumper Online at example.com",
        "houses for sale in a row",
    ],
)
def test_a_text_that_says_more_passes(text: str) -> None:
    assert EVERY_LIST.found(text) is None


def test_more_words_may_be_asked_for() -> None:
    assert Boilerplate(["stock"], [], min_words_left=5).found("Empty meeting room stock photo") == "stock"
    assert Boilerplate(["stock"], [], min_words_left=5).found("Empty meeting room") is None


def test_only_the_lists_that_were_asked_for_are_used() -> None:
    assert Boilerplate(["page"], [], 2).found("Royalty free stock photo") is None


@pytest.mark.parametrize("text", ["PoweredTemplate", "at Acme  INC.", "(acme inc.)"])
def test_own_phrases_are_whole_words_without_case_and_taken_literally(text: str) -> None:
    own = Boilerplate([], ["acme inc.", "poweredtemplate"], 2)
    assert own.found(text) == "phrases"
    assert own.found("Pacme incorporated") is None
    assert own.found("acme incX") is None


@given(st.text(st.characters(), max_size=200), st.lists(st.text(min_size=1).filter(str.strip), max_size=3))
def test_any_text_and_any_phrases_are_taken(text: str, phrases: list[str]) -> None:
    assert Boilerplate(["page", "stock", "shop"], phrases, 2).found(text) in (None, *LISTS, "phrases")
