import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from capfilt.images import ImageError, decode, decode_rgb, sniff

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def two_colours(width: int = 40, height: int = 20) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def code_of(data: bytes, max_pixels: int = 1_000_000) -> str:
    with pytest.raises(ImageError) as error:
        decode(data, max_pixels=max_pixels)
    return str(error.value)


def is_near(pixel: object, colour: tuple[int, int, int], by: int = 12) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - colour).max() <= by)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_five_formats_become_rgb(kind: str) -> None:
    data = encoded(two_colours(), kind)
    picture = decode(data, max_pixels=1_000_000)
    assert sniff(data) == kind
    assert (picture.image.mode, picture.image.size, picture.width, picture.height) == ("RGB", (40, 20), 40, 20)
    assert is_near(picture.image.getpixel((3, 10)), RED, 40)
    assert is_near(picture.image.getpixel((37, 10)), BLUE, 40)


@pytest.mark.parametrize(
    ("orientation", "size", "red_at", "blue_at"),
    [
        (1, (40, 20), (3, 10), (37, 10)),
        (2, (40, 20), (37, 10), (3, 10)),
        (3, (40, 20), (37, 10), (3, 10)),
        (6, (20, 40), (10, 3), (10, 37)),
        (8, (20, 40), (10, 37), (10, 3)),
    ],
)
@pytest.mark.parametrize("shorter_side", [None, 4])
def test_exif_orientation_turns_picture_and_size(
    orientation: int, size: tuple[int, int], red_at: tuple[int, int], blue_at: tuple[int, int], shorter_side: int | None
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = decode(encoded(two_colours(), "JPEG", quality=95, exif=exif), max_pixels=10_000, shorter_side=shorter_side)
    assert (picture.width, picture.height) == size
    scale = picture.image.width / size[0]
    for at, colour in ((red_at, RED), (blue_at, BLUE)):
        assert is_near(picture.image.getpixel((int(at[0] * scale), int(at[1] * scale))), colour)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_orientation() -> None:
    data = encoded(two_colours(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40)
    assert decode(data, max_pixels=10_000).image.size == (40, 20)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"), [("L", 128, (128,) * 3), ("1", 1, (255,) * 3), ("LA", (50, 255), (50,) * 3)]
)
def test_grey_pictures_get_three_channels(mode: str, colour: object, expected: tuple[int, int, int]) -> None:
    image = decode_rgb(encoded(Image.new(mode, (9, 9), colour), "PNG"))  # type: ignore[arg-type]
    assert (image.mode, image.getpixel((4, 4))) == ("RGB", expected)


def test_sixteen_bits_are_cut_to_eight() -> None:
    ramp = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    image = decode_rgb(encoded(Image.fromarray(ramp), "PNG"))
    assert np.array_equal(np.asarray(image)[..., 0], ramp >> 8)


def test_cmyk_and_palette_become_rgb() -> None:
    assert is_near(decode_rgb(encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "JPEG")).getpixel((4, 4)), RED)
    assert is_near(decode_rgb(encoded(two_colours().quantize(4), "PNG")).getpixel((3, 10)), RED)


def test_transparency_becomes_white() -> None:
    assert decode_rgb(encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "PNG")).getpixel((4, 4)) == (255, 255, 255)
    palette = two_colours().quantize(4)
    transparent = decode_rgb(encoded(palette, "PNG", transparency=palette.getpixel((3, 10))))
    assert transparent.getpixel((3, 10)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (30, 30), RED), Image.new("RGB", (30, 30), BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert is_near(decode_rgb(data).getpixel((15, 15)), RED, 20)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not_an_image"),
        (b"<!doctype html><html></html>", "not_an_image"),
        (b"BMW is a maker of cars, not a picture of one", "not_an_image"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format:svg"),
        (b"  <svg onload='x'/>", "unsupported_format:svg"),
        (b"PK\x03\x04" + b"\0" * 30, "unsupported_format:archive"),
        (b"\x1f\x8b" + b"\0" * 30, "unsupported_format:archive"),
        (b"II*\x00" + b"\0" * 30, "unsupported_format:tiff"),
        (b"\0\0\0\x20ftypavif" + b"\0" * 30, "unsupported_format:avif"),
        (b"%!PS-Adobe-3.0 EPSF", "unsupported_format:postscript"),
    ],
)
def test_other_things_are_refused_by_their_first_bytes(data: bytes, code: str) -> None:
    assert code_of(data) == code


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("1", (3000, 3000)), "PNG")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("was decoded"))
    assert code_of(data, max_pixels=1_000_000) == "too_many_pixels"


def test_a_bomb_beyond_pillows_own_limit_has_the_same_code() -> None:
    data = bytearray(encoded(Image.new("1", (30, 30)), "PNG"))
    import struct
    import zlib

    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert code_of(bytes(data)) == "too_many_pixels"


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_half_a_jpeg_is_truncated(options: dict[str, bool]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    data = encoded(noise, "JPEG", **options)
    assert code_of(data[: len(data) // 2]) == "truncated"


def test_a_reduced_decode_keeps_at_least_twice_the_side_asked_for() -> None:
    data = encoded(two_colours(800, 400), "JPEG")
    picture = decode(data, max_pixels=1_000_000, shorter_side=50)
    assert (picture.width, picture.height) == (800, 400)
    assert picture.image.size == (200, 100)
    assert decode(data, max_pixels=1_000_000, shorter_side=500).image.size == (800, 400)


WHOLE = [encoded(two_colours(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_damaged_bytes_give_a_picture_or_an_image_error(whole: bytes, data: st.DataObject) -> None:
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if broken:
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(broken), max_pixels=100_000, shorter_side=8).image.mode
    except ImageError as error:
        found = error.code
    assert found in ("RGB", "not_an_image", "unsupported_format", "too_many_pixels", "truncated", "corrupt")
