import base64
import io

from PIL import Image

from capfilt.report.thumbs import SIDE_PX, Thumbs


def picture(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 90).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def test_a_thumbnail_is_a_small_jpeg() -> None:
    uri = Thumbs().uri(picture(640, 320))
    assert uri is not None
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        assert opened.size == (SIDE_PX, SIDE_PX // 2)


def test_bytes_that_are_no_picture_have_no_thumbnail() -> None:
    thumbs = Thumbs()
    assert [thumbs.uri(data) for data in (None, b"", b"<html>", picture(64, 64)[:300])] == [None] * 4
    assert thumbs.left_out == 0


def test_a_spent_budget_leaves_pictures_out_and_counts_them() -> None:
    thumbs = Thumbs(budget_bytes=30_000)
    uris = [thumbs.uri(picture(200, 200)) for _ in range(6)]
    made = [uri for uri in uris if uri]
    assert made
    assert sum(map(len, made)) < 31_000
    assert thumbs.left_out == 6 - len(made) > 0
