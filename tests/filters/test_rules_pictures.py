import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from pydantic import TypeAdapter

from capfilt.config.screen import ImageRule
from capfilt.filters.rules import ImageRules, ScreenedRow
from capfilt.filters.rules import pictures as module
from capfilt.filters.rules.pictures import PIXELS_LONGER_SIDE, is_elongated, share_of_one_colour, sharpness, shrink
from capfilt.images import ImageError


def rules(*settings: dict[str, Any]) -> ImageRules:
    return ImageRules(TypeAdapter(list[ImageRule]).validate_python(settings))


def row(width: int | None = None, height: int | None = None, image: bytes | None = None, **upstream: Any) -> ScreenedRow:
    return ScreenedRow(width, height, image, upstream)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def noise(width: int = 320, height: int = 240) -> Image.Image:
    """Coarse noise, as sharp as a photograph of foliage."""
    small = np.random.default_rng(0).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


SIDE, ASPECT = {"kind": "min_side", "px": 32}, {"kind": "max_aspect", "ratio": 3}
UNSAFE = {"kind": "max_value", "column": "punsafe", "value": 0.5}
SIMILAR = {"kind": "min_value", "column": "similarity", "value": 0.3}
BLUR, COLOUR = {"kind": "blur"}, {"kind": "one_colour"}


@pytest.mark.parametrize(
    ("width", "height", "name"),
    [(32, 32, None), (31, 100, "min_side"), (100, 31, "min_side"), (32, 97, "max_aspect"), (96, 32, None), (10, 100, "min_side")],
)
def test_the_first_rule_that_rejects_is_named(width: int, height: int, name: str | None) -> None:
    assert rules(SIDE, ASPECT).judge(row(width, height)) == name


def test_the_order_written_decides_the_name() -> None:
    assert rules(ASPECT, SIDE).judge(row(10, 100)) == "max_aspect"


@pytest.mark.parametrize(
    ("upstream", "name"),
    [
        ({"punsafe": 0.5, "similarity": 0.3}, None),
        ({"punsafe": 0.6, "similarity": 0.9}, "max_value:punsafe"),
        ({"punsafe": 0.1, "similarity": 0.2}, "min_value:similarity"),
        ({"punsafe": None}, None),
        ({}, None),
    ],
)
def test_a_rule_on_a_column_is_named_with_its_column(upstream: dict[str, float], name: str | None) -> None:
    assert rules(UNSAFE, SIMILAR).judge(row(**upstream)) == name


def test_what_is_not_known_rejects_nothing() -> None:
    assert rules(SIDE, ASPECT, {"kind": "bytes", "min": 10}, BLUR, COLOUR).judge(row()) is None


@pytest.mark.parametrize(("size", "name"), [(9, "bytes"), (10, None), (20, None), (21, "bytes")])
def test_bytes_are_those_of_the_stored_picture(size: int, name: str | None) -> None:
    assert rules({"kind": "bytes", "min": 10, "max": 20}).judge(row(image=b"x" * size)) == name


def test_a_blurred_picture_is_rejected_and_a_sharp_one_is_not() -> None:
    sharp = noise()
    assert rules(BLUR).judge(row(image=jpeg(sharp))) is None
    assert rules(BLUR).judge(row(image=jpeg(sharp.filter(ImageFilter.GaussianBlur(8))))) == "blur"


def test_blur_is_measured_at_one_size() -> None:
    values = [sharpness(shrink(np.asarray(noise().resize(size, Image.Resampling.BICUBIC)))) for size in ((320, 240), (1280, 960))]
    assert values[1] == pytest.approx(values[0], rel=0.2), "the same picture in four times the pixels is as sharp"


def test_a_placeholder_is_rejected_and_a_white_background_is_not() -> None:
    blank = Image.new("RGB", (300, 200), (200, 200, 200))
    blank.paste((90, 90, 90), (140, 95, 160, 105))
    assert rules(COLOUR).judge(row(image=jpeg(blank))) == "one_colour"
    blank.paste((30, 90, 190), (60, 40, 220, 160))
    assert rules(COLOUR).judge(row(image=jpeg(blank))) is None


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_a_flat_picture_is_one_colour_whatever_the_colour(red: int, green: int, blue: int) -> None:
    assert share_of_one_colour(np.full((8, 8, 3), (red, green, blue), dtype=np.uint8)) == 1


def test_the_picture_is_decoded_once_and_only_when_a_rule_on_pixels_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    def counted(data: bytes) -> Image.Image:
        decoded.append(len(data))
        return noise()

    monkeypatch.setattr(module, "decode_rgb", counted)
    assert rules(SIDE, BLUR, COLOUR).judge(row(10, 10, b"x")) == "min_side"
    assert decoded == []
    assert rules(SIDE, BLUR, COLOUR, BLUR).judge(row(100, 100, b"x")) is None
    assert len(decoded) == 1


def test_bytes_that_do_not_decode_are_the_callers_to_report() -> None:
    with pytest.raises(ImageError, match="not_an_image"):
        rules(BLUR).judge(row(image=b"nothing"))


@given(st.integers(1, 900), st.integers(1, 900))
def test_a_picture_is_shrunk_and_never_enlarged(width: int, height: int) -> None:
    small = shrink(np.zeros((height, width, 3), dtype=np.uint8))
    assert max(small.shape[:2]) == min(max(width, height), PIXELS_LONGER_SIDE)
    assert min(small.shape[:2]) >= 1


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(1, 20))
def test_aspect_does_not_know_which_side_is_up(width: int, height: int, ratio: float) -> None:
    assert is_elongated(width, height, ratio) == is_elongated(height, width, ratio)
    assert not is_elongated(width, width, ratio)


def test_only_rules_on_the_picture_need_it() -> None:
    assert not rules(SIDE, ASPECT, UNSAFE).needs_image
    assert rules(SIDE, {"kind": "bytes", "min": 1}).needs_image
    assert rules(BLUR).needs_image
