"""Every kind of picture through the whole downloader: a JPEG in RGB, upright, of the right size; or a status that says why."""

import io
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from capfilt.download.outcome import Outcome
from capfilt.download.pictures import Downloaded, PictureDownloader
from capfilt.download.resizing import PictureResizer
from capfilt.images import decode_rgb

RED = (255, 0, 0)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def kept() -> Callable[..., Downloaded]:
    """What becomes of a body that arrived."""
    bodies: dict[str, bytes] = {}
    downloader = PictureDownloader(
        lambda url: Outcome("ok", body=bodies[url or ""]), image_px=32, jpeg_quality=95, max_pixels=1_000_000, threads=2
    )

    def keep(body: bytes, boxes: list[list[float]] | None = None) -> Downloaded:
        bodies["one"] = body
        (row,) = downloader(["one"], [boxes])
        return row

    return keep


KINDS: dict[str, bytes] = {
    "progressive": encoded(photo(80, 60), "JPEG", progressive=True),
    "grey JPEG": encoded(photo(80, 60).convert("L"), "JPEG"),
    "grey + alpha": encoded(photo(80, 60).convert("LA"), "PNG"),
    "RGBA": encoded(photo(80, 60).convert("RGBA"), "PNG"),
    "1 bit": encoded(photo(80, 60).convert("1"), "PNG"),
    "16 bits": encoded(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80) * 13), "PNG"),
    "palette": encoded(photo(80, 60).quantize(16), "PNG", transparency=3),
    "palette BMP": encoded(photo(80, 60).quantize(16), "BMP"),
    "CMYK": encoded(photo(80, 60).convert("CMYK"), "JPEG"),
    "animated GIF": encoded(photo(80, 60), "GIF", save_all=True, append_images=[photo(80, 60, 1)]),
    "animated WebP": encoded(photo(80, 60), "WEBP", save_all=True, append_images=[photo(80, 60, 1)]),
    "animated PNG": encoded(photo(80, 60), "PNG", save_all=True, append_images=[photo(80, 60, 1)]),
    "MPO": encoded(photo(80, 60), "MPO", save_all=True, append_images=[photo(80, 60, 1)]),
    "huge profile": encoded(photo(80, 60), "JPEG", icc_profile=bytes(3_000_000)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_picture_becomes_a_jpeg_in_rgb(kind: str, kept: Callable[..., Downloaded]) -> None:
    row = kept(KINDS[kind])
    assert (row.status, row.error) == ("ok", None)
    assert (row.width, row.height, row.original_width, row.original_height) == (43, 32, 80, 60)
    assert row.image is not None
    image = decode_rgb(row.image)
    assert (image.mode, image.size) == ("RGB", (43, 32))
    assert np.asarray(image).std() > 10  # a picture, not a plain area


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (1, 1)), ((1, 900), (1, 900)), ((3, 9000), (3, 9000)), ((33, 3300), (32, 3200)), ((20_000, 40), (16_000, 32))],
)
def test_the_smallest_and_the_longest_pictures_are_pictures(
    size: tuple[int, int], expected: tuple[int, int], kept: Callable[..., Downloaded]
) -> None:
    row = kept(encoded(Image.new("RGB", size, RED), "PNG"))
    assert (row.status, row.width, row.height, row.original_width, row.original_height) == ("ok", *expected, *size)


def test_what_no_jpeg_can_hold_is_said_to_be_so(kept: Callable[..., Downloaded]) -> None:
    row = kept(encoded(Image.new("1", (70_000, 3)), "PNG"))
    assert (row.status, row.error, row.image) == ("image_invalid", "resize_failed", None)


@pytest.mark.parametrize("kind", ["TIFF", "AVIF"])
def test_formats_without_a_decoder_here_are_named(kind: str, kept: Callable[..., Downloaded]) -> None:
    row = kept(encoded(photo(80, 60), kind))
    assert (row.status, row.error) == ("image_invalid", f"unsupported_format:{kind.lower()}")


def test_a_bomb_in_any_format_is_refused_by_its_size(kept: Callable[..., Downloaded]) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP"):
        row = kept(encoded(Image.new("L", (1200, 900)), kind))
        assert (kind, row.status, row.error) == (kind, "image_invalid", "too_many_pixels")


@pytest.mark.parametrize("size", [(500, 375), (240, 320), (30, 50)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_an_ordinary_jpeg_becomes_what_img2dataset_alone_makes_of_it(size: tuple[int, int], options: dict[str, object]) -> None:
    body = encoded(photo(*size), "JPEG", quality=88, **options)
    ours = PictureResizer(image_px=128, jpeg_quality=95, max_pixels=1_000_000).for_chunk()(io.BytesIO(body), None)
    from img2dataset.resizer import Resizer  # after ours: it asks the network for its newest version unless told not to

    alone = Resizer(image_size=128, resize_mode="keep_ratio", resize_only_if_bigger=True, encode_quality=95, encode_format="jpg")(
        io.BytesIO(body)
    )
    assert ours == alone


def test_a_picture_bigger_than_one_block_of_memory_is_the_same() -> None:
    body = encoded(photo(2600, 2000), "JPEG", quality=50)
    resizer = PictureResizer(image_px=1900, jpeg_quality=95, max_pixels=10_000_000)
    jpeg, width, height, *_ = resizer.for_chunk()(io.BytesIO(body), None)
    whole = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    expected = cv2.resize(whole, (2470, 1900), interpolation=cv2.INTER_AREA)
    assert (width, height) == (2470, 1900)
    assert jpeg == cv2.imencode(".jpg", expected, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


# ── boxes ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_box_is_blurred_and_the_rest_is_not(kept: Callable[..., Downloaded]) -> None:
    body = encoded(photo(400, 300), "PNG")
    resizer = PictureResizer(image_px=300, jpeg_quality=95, max_pixels=1_000_000)
    plain, blurred = (
        np.asarray(decode_rgb(resizer.for_chunk()(io.BytesIO(body), boxes)[0] or b""), float)
        for boxes in (None, [[0.25, 0.2, 0.5, 0.6]])
    )
    inside = np.s_[90:150, 130:170]  # of the box [100:200, 60:180] in x and y
    # img2dataset's own blur leaves four fifths of it (see `resizing`)
    assert blurred[inside].std(axis=(0, 1)).mean() < plain[inside].std(axis=(0, 1)).mean() / 3
    assert np.abs(blurred[inside] - plain[inside]).mean() > 30
    for outside in (np.s_[:, 290:], np.s_[272:, :], np.s_[:, :16]):  # beyond the soft edge, in whole JPEG blocks
        assert np.array_equal(blurred[outside], plain[outside])


def test_boxes_are_of_the_upright_picture_whatever_its_size(kept: Callable[..., Downloaded]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # upright: a quarter turn to the right
    body = encoded(photo(40, 20), "JPEG", quality=95, exif=exif)
    plain, blurred = (np.asarray(decode_rgb(kept(body, boxes).image or b""), int) for boxes in (None, [[0, 0, 1, 0.4]]))
    change = np.abs(plain - blurred).mean(axis=(1, 2))
    assert plain.shape == (40, 20, 3)
    assert change[:12].mean() > 10 * max(change[30:].mean(), 0.1)


def test_no_boxes_are_no_blur(kept: Callable[..., Downloaded]) -> None:
    body = encoded(photo(80, 60), "JPEG")
    assert kept(body, []) == kept(body, None) == kept(body)


def test_blurring_is_the_same_every_time(kept: Callable[..., Downloaded]) -> None:
    body = encoded(photo(80, 60), "JPEG")
    boxes = [[0.1, 0.1, 0.5, 0.9], [0.6, 0.2, 1.2, 0.5]]
    assert kept(body, boxes) == kept(body, boxes) != kept(body)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_bomb_of_text_beside_the_pixels_is_not_unpacked(kept: Callable[..., Downloaded]) -> None:
    whole = encoded(photo(80, 60), "PNG")
    bombs = b"".join(chunk(kind, b"a\0\0" + zlib.compress(bytes(30_000_000))) for kind in (b"zTXt", b"iCCP"))
    row = kept(whole[:33] + bombs + whole[33:])
    assert (row.status, row.image) == ("ok", kept(whole).image)
