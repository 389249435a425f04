import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.screen import MaxAspect, MaxValue, MinSide, MinValue, NotEmpty, NotFileName, Words
from capfilt.filters.rules import is_elongated, is_file_name, rejects_image, rejects_text

SIDE, ASPECT = MinSide(kind="min_side", px=32), MaxAspect(kind="max_aspect", ratio=3)
UNSAFE = MaxValue(kind="max_value", column="punsafe", value=0.5)
SIMILAR = MinValue(kind="min_value", column="similarity", value=0.3)


@pytest.mark.parametrize(
    ("width", "height", "rule"),
    [(32, 32, None), (31, 100, "min_side"), (100, 31, "min_side"), (32, 97, "max_aspect"), (96, 32, None), (10, 100, "min_side")],
)
def test_the_first_rule_that_rejects_is_named(width: int, height: int, rule: str | None) -> None:
    assert rejects_image([SIDE, ASPECT], width=width, height=height, upstream={}) == rule


@pytest.mark.parametrize(
    ("upstream", "rule"),
    [
        ({"punsafe": 0.5, "similarity": 0.3}, None),
        ({"punsafe": 0.6, "similarity": 0.9}, "max_value:punsafe"),
        ({"punsafe": 0.1, "similarity": 0.2}, "min_value:similarity"),
        ({"punsafe": None, "similarity": None}, None),
        ({}, None),
    ],
)
def test_carried_values_reject_beyond_their_limit_and_pass_when_missing(upstream: dict[str, float], rule: str | None) -> None:
    assert rejects_image([UNSAFE, SIMILAR], width=None, height=None, upstream=upstream) == rule


def test_an_unknown_size_rejects_nothing() -> None:
    assert rejects_image([SIDE, ASPECT], width=None, height=None, upstream={}) is None


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(1, 20))
def test_aspect_does_not_know_which_side_is_up(width: int, height: int, ratio: float) -> None:
    assert is_elongated(width, height, ratio) == is_elongated(height, width, ratio)
    assert not is_elongated(width, width, ratio)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "not_empty"),
        (" \n\u00a0", "not_empty"),
        ("DSC_0012", "not_file_name"),
        ("dog", "words"),
        ("a red dog", None),
        ("a b c d e", "words"),
    ],
)
def test_text_rules_name_what_rejects(text: str, rule: str | None) -> None:
    rules = [NotEmpty(kind="not_empty"), NotFileName(kind="not_file_name"), Words(kind="words", min=2, max=4)]
    assert rejects_text(rules, text) == rule


@given(st.text())
def test_no_rules_reject_nothing(text: str) -> None:
    assert rejects_text([], text) is None


@pytest.mark.parametrize(
    "text",
    [
        "IMG_2034.JPG",
        "IMG_2034",
        "img 2034 (1)",
        "IMG-20190521-WA0003.jpg",
        "DSC_0012",
        "DSC00017.jpg",
        "DSC_0042 NIKON D750",
        "DSCN1234",
        "P1010023",
        "P1012345.JPG",
        "image001.png",
        "image-812-1024x768.jpeg",
        "Image (3)",
        "photo.jpg",
        "untitled-1",
        "Screenshot 2014-03-09.png",
        "Screenshot 2021-03-04 at 12.30.11.png",
        "WhatsApp Image 2020-01-02 at 10.11.12.jpeg",
        "20190521_113312",
        "123456789_n",
        "1280x720",
        "sunset-beach-02.webp",
        "d41d8cd98f00b204e9800998ecf8427e",
        "123e4567-e89b-12d3-a456-426614174000",
        "  GOPR0123.MP4 ",
    ],
)
def test_file_names_and_camera_strings_are_found(text: str) -> None:
    assert is_file_name(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle above a blue square",
        "photo of a dog",
        "photo of a dog.jpg",
        "image of the year 2019",
        "2019",
        "Samsung Galaxy S21",
        "dog",
        "decade",
        "Pasta 500 g",
        "p. 12 of the diary",
        "Scan the horizon",
        "picture perfect",
        "Boeing 747-400",
        "3 cats",
    ],
)
def test_descriptions_are_not_taken_for_file_names(text: str) -> None:
    assert not is_file_name(text)


@given(st.text(max_size=300))
def test_any_text_is_judged_quickly_and_without_raising(text: str) -> None:
    assert is_file_name(text) in (True, False)


def test_hostile_texts_take_no_time() -> None:
    import time

    start = time.perf_counter()
    for text in ("image " + "1 at " * 60, "image" + "1" * 190 + "!", "a" * 200, "1" * 99 + "_" * 99, "image(" + "(" * 190):
        is_file_name(text)
    assert time.perf_counter() - start < 0.2
