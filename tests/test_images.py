import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageOps

from capfilt.images import CODES, ImageError, as_rgb, decode, decode_rgb, decoding, read_container, sniff

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


def test_the_one_transparent_grey_of_sixteen_bits_becomes_white() -> None:
    grey = np.full((9, 9), 5000, np.uint16)
    grey[:4] = 777
    image = decode_rgb(encoded(Image.fromarray(grey), "PNG", transparency=777))
    assert (image.getpixel((2, 2)), image.getpixel((2, 7))) == ((255, 255, 255), (5000 >> 8,) * 3)


def test_cmyk_is_taken_as_adobe_writes_it_and_as_others_do() -> None:
    """Adobe's ink is upside down and marked (APP14, which Pillow writes too); without the mark it is as it says."""
    ink = Image.new("CMYK", (9, 9), (0, 255, 255, 0))
    adobe = encoded(ink, "JPEG", quality=95)
    plain = encoded(ImageChops.invert(ink), "JPEG", quality=95)
    begin = plain.index(b"\xff\xee")
    plain = plain[:begin] + plain[begin + 2 + int.from_bytes(plain[begin + 2 : begin + 4]) :]
    for data in (adobe, plain):
        assert is_near(decode_rgb(data).getpixel((4, 4)), RED)


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
        (b"\0\0\0\x20ftypheic" + b"\0" * 30, "unsupported_format:heic"),
        (b"\0\0\0\x20ftypmif1" + b"\0" * 30, "unsupported_format:heic"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "unsupported_format:jxl"),
        (b"<!-- made by hand -->\n<svg/>", "unsupported_format:svg"),
        (b"BM" + b"\0" * 12 + b"\x28\0\0\0" + b"\1\0\0\0" * 2 + b"\1\0\x08\0\1\0\0\0" + b"\0" * 30, "unsupported_format:bmp_rle"),
    ],
)
def test_other_things_are_refused_by_their_first_bytes(data: bytes, code: str) -> None:
    assert code_of(data) == code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_bomb_is_refused_before_any_decoder_sees_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (1200, 900)), kind)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("was opened"))
    monkeypatch.setattr(decoding, "JpegImageFile", lambda *_: pytest.fail("was opened"))
    assert code_of(data, max_pixels=1_000_000) == "too_many_pixels"


def test_a_bomb_beyond_pillows_own_limit_has_the_same_code() -> None:
    data = bytearray(encoded(Image.new("1", (30, 30)), "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert code_of(bytes(data), max_pixels=10**10) == "too_many_pixels"


def test_an_animated_webp_of_an_enormous_canvas_is_refused_by_its_header() -> None:
    """Pillow makes room for two canvases when it opens one."""
    data = bytearray(encoded(two_colours(), "WEBP", save_all=True, append_images=[two_colours(40, 20).rotate(180)]))
    assert data[12:16] == b"VP8X"
    data[24:30] = b"\xff\x3f\0" * 2
    assert code_of(bytes(data)) == "too_many_pixels"


def test_a_frame_bigger_than_its_gif_counts_as_the_picture() -> None:
    data = bytearray(encoded(Image.new("L", (1200, 900)), "GIF"))
    data[6:10] = b"\1\0\1\0"  # the screen
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
    assert found in ("RGB", *CODES)


# ── what stands beside the pixels ───────────────────────────────────────────────────────────────────────────


def segment(marker: int, body: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def after(data: bytes, at: int, parts: bytes) -> bytes:
    return data[:at] + parts + data[at:]


JPEG, PNG, GIF = (encoded(two_colours(), kind) for kind in ("JPEG", "PNG", "GIF"))
GIF_AT = 13 + (3 << (GIF[10] & 7) + 1)

BALLAST: dict[str, bytes] = {
    "profile": after(JPEG, 2, segment(0xE2, b"ICC_PROFILE\0\1\xff" + bytes(60_000)) * 60),
    "EXIF": after(JPEG, 2, segment(0xE1, b"Exif\0\0MM\0*" + b"\xff" * 60_000) * 60),
    "comments": after(JPEG, 2, segment(0xFE) * 100_000),
    "fill bytes": after(JPEG, 2, b"\xff" * 3_000_000),
    "text chunks": after(PNG, 33, chunk(b"tEXt", b"a\0" + b"b" * 20) * 100_000),
    "text bombs": after(PNG, 33, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 70),
    "profile bomb": after(PNG, 33, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(20_000_000)))),
    "EXIF chunk": after(PNG, 33, chunk(b"eXIf", b"II*\0" + bytes(3_000_000))),
    "GIF comment": after(GIF, GIF_AT, b"\x21\xfe" + (b"\xff" + b"c" * 255) * 10_000 + b"\0"),
    "trailer": JPEG + bytes(3_000_000),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", BALLAST)
def test_ballast_is_not_read_however_big(kind: str) -> None:
    start = time.process_time()
    picture = decode(BALLAST[kind], max_pixels=10_000)
    assert time.process_time() - start < 0.5  # Pillow alone: seconds for some of these
    assert picture.image.size == (40, 20)
    assert is_near(picture.image.getpixel((3, 10)), RED)


@pytest.mark.parametrize(
    "data",
    [
        after(JPEG, 2, segment(0xFE) * 200_000),
        after(PNG, 33, chunk(b"teXt") * 200_000),
        after(PNG, 33, chunk(b"IDAT") * 200_000),
        after(GIF, GIF_AT, b"\x21\xfe\1c\0" * 200_000),
        after(GIF, GIF_AT, b"\x21\xf9\4\0\0\0\0\0" * 200_000),
        after(GIF, GIF_AT, b"\0" * 200_000),
    ],
)
def test_a_file_of_too_many_parts_is_refused(data: bytes) -> None:
    assert code_of(data) == "too_many_parts"


def test_a_progressive_jpeg_of_too_many_scans_is_refused() -> None:
    data = encoded(two_colours(), "JPEG", progressive=True)
    begin = data.index(b"\xff\xda")
    scan = data[begin : data.index(b"\xff\xda", begin + 2)]
    assert code_of(after(data, begin, scan * 100)) == "too_many_parts"
    assert decode(data, max_pixels=10_000).image.size == (40, 20)


def test_scans_are_not_counted_in_what_follows_the_picture() -> None:
    """A motion photo has a film behind its JPEG, an MPO a second JPEG."""
    data = encoded(two_colours(), "JPEG", progressive=True)
    assert decode(data + b"\xff\xda\0\2" * 500, max_pixels=10_000).image.size == (40, 20)


def test_a_mpo_is_its_first_picture_and_a_broken_index_does_no_harm() -> None:
    data = bytearray(encoded(two_colours(), "MPO", save_all=True, append_images=[Image.new("RGB", (40, 20), BLUE)]))
    assert is_near(decode_rgb(bytes(data)).getpixel((3, 10)), RED)
    at = data.index(b"MPF\0")
    data[at + 4 : at + 30] = b"\xff" * 26
    assert is_near(decode_rgb(bytes(data)).getpixel((3, 10)), RED)


def test_two_headers_that_disagree_are_corrupt() -> None:
    frame = JPEG[JPEG.index(b"\xff\xc0") : JPEG.index(b"\xff\xc0") + 19]
    assert code_of(after(JPEG, JPEG.index(b"\xff\xc0"), frame)) == "corrupt"


def test_the_parts_that_matter_stay() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(two_colours(), kind, exif=exif, **({"icc_profile": bytes(70_000)} if kind != "WEBP" else {}))
        assert decode_rgb(data).size == (20, 40)
        assert kind == "WEBP" or len(read_container(data).data) < 5000


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 8, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(expected))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert decode_rgb(encoded(two_colours(), "JPEG", exif=exif)).size == (40, 20)


CUT: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda image: encoded(image, "JPEG"),
    "progressive": lambda image: encoded(image, "JPEG", progressive=True),
    "PNG": lambda image: encoded(image, "PNG"),
    "WEBP": lambda image: encoded(image, "WEBP", quality=90),
    "lossless": lambda image: encoded(image, "WEBP", lossless=True),
    "GIF": lambda image: encoded(image, "GIF"),
    "BMP": lambda image: encoded(image, "BMP"),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_picture_that_was_cut_off_says_so(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    data = CUT[kind](noise)
    for part in (0.3, 0.6, 0.95):
        assert code_of(data[: int(len(data) * part)]) == "truncated"


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_container_tells_the_size_and_keeps_the_pixels(kind: str, width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels), kind)
    container = read_container(data)
    assert (container.format, container.width, container.height) == (kind, width, height)
    assert not container.is_short
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(expected))


def test_pictures_in_the_hand_become_rgb_as_files_do():
    assert as_rgb(Image.new("RGBA", (1, 1), (9, 9, 9, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert as_rgb(Image.fromarray(np.full((1, 1), 20_000, dtype=np.uint16))).getpixel((0, 0)) == (78, 78, 78)
    assert as_rgb(Image.new("RGB", (1, 1), (200, 10, 10)).convert("CMYK")).getpixel((0, 0)) == (200, 10, 10)
    assert as_rgb(Image.new("I", (1, 1), 200)).getpixel((0, 0)) == (200, 200, 200)
