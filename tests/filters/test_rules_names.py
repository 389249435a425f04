import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.filters.rules.names import is_file_name


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
        "http://icons.example.org/soccer-icon.png",
        "https://example.org/wiki/Crew_of_KL_867_%28PH-BFC%29.jpeg/520px-thumbnail.jpeg",
        "www.example.org/a",
        "products/evergreen-flower-joggers.jpg",
        "mount-everest-89590_1280",
        "Flowers_and_leaves",
        "inside-blue-mosque-istanbul-turkey",
        "tp-link-powerline-av500",
        "Grey%20City,%20the%20Triangle",
    ],
)
def test_file_names_camera_strings_and_addresses_are_found(text: str) -> None:
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
        "jack-in-the-box",
        "apple-watch",
        "see https://example.org for a red dog",
        "T-shirt",
        "100% cotton",
    ],
)
def test_descriptions_are_not_taken_for_file_names(text: str) -> None:
    assert not is_file_name(text)


@given(st.text(max_size=400))
def test_any_text_is_judged(text: str) -> None:
    assert is_file_name(text) in (True, False)


def test_hostile_texts_take_no_time() -> None:
    hostile = ("image " + "1 at " * 55, "image" + "1" * 190 + "!", "a" * 299, "1" * 99 + "_" * 99 + " ", "image(" + "(" * 290)
    start = time.process_time()
    for text in (*hostile, "a-" * 149 + "!", "a/" * 149 + "!", "%20" * 99 + " x", "a" * 1_000_000):
        is_file_name(text)
    assert time.process_time() - start < 0.3
