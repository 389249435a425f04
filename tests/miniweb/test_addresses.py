import io
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from capfilt.miniweb.addresses import BAD, DUPLICATES, ODD, again, bomb, encode, url_kinds


def test_shares_of_bad_urls_and_duplicates_add_up() -> None:
    assert sum(BAD.values()) == pytest.approx(1)
    assert sum(DUPLICATES.values()) == pytest.approx(1)


@given(st.integers(1, 3000), st.floats(0, 0.5), st.integers(0, 99))
def test_every_address_has_one_kind(pictures: int, bad_urls: float, seed: int) -> None:
    kinds = url_kinds(pictures, bad_urls, Random(seed))
    assert len(kinds) == pictures
    assert set(kinds) <= {"ok", *BAD, *ODD}


def test_a_web_of_a_hundred_addresses_has_every_kind() -> None:
    assert set(url_kinds(100, 0.18, Random(0))) == {"ok", *BAD, *ODD}


def test_shares_hold_in_a_web_of_the_quickstarts_size() -> None:
    kinds = url_kinds(4000, 0.18, Random(0))
    assert sum(kind in BAD for kind in kinds) / 4000 == pytest.approx(0.18, abs=0.002)
    assert kinds.count("dripping") / 4000 == pytest.approx(0.007, abs=0.001)


def test_a_bomb_is_small_and_declares_900_million_pixels() -> None:
    body = bomb()
    assert len(body) < 2000
    assert body[16:24] == (30_000).to_bytes(4, "big") * 2


def test_each_kind_has_its_form() -> None:
    picture = Image.radial_gradient("L").convert("RGB")
    opened = {kind: Image.open(io.BytesIO(encode(picture, kind, Random(0)))) for kind in ("ok", "png", "grayscale")}
    assert {kind: (image.format, image.mode) for kind, image in opened.items()} == {
        "ok": ("JPEG", "RGB"),
        "png": ("PNG", "RGB"),
        "grayscale": ("JPEG", "L"),
    }
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(encode(picture, "truncated", Random(0)))).load()
    for kind in ("not_image", "html"):
        with pytest.raises(OSError, match="cannot identify"):
            Image.open(io.BytesIO(encode(picture, kind, Random(0))))


def test_a_near_duplicate_has_other_bytes_and_the_same_or_less_size() -> None:
    body = encode(Image.radial_gradient("L").convert("RGB"), "ok", Random(0))
    copies = [again(body, Random(seed)) for seed in range(10)]
    assert all(copy != body for copy in copies)
    assert {Image.open(io.BytesIO(copy)).size for copy in copies} == {(256, 256), (205, 205)}
