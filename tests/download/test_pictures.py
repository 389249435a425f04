import hashlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from capfilt.download.fetch import GuardedFetch
from capfilt.download.outcome import Outcome
from capfilt.download.pictures import PictureDownloader
from capfilt.download.resizing import seeing
from capfilt.images import decode_rgb

Make = Callable[..., PictureDownloader]


@pytest.fixture
def make_pictures(make_fetch: Callable[..., GuardedFetch]) -> Make:
    def make(fetch: Callable[[str | None], Outcome] | None = None, **changes: int) -> PictureDownloader:
        settings = {"image_px": 24, "jpeg_quality": 90, "max_pixels": 1_000_000, "threads": 8, **changes}
        return PictureDownloader(fetch or make_fetch(), **settings)

    return make


def test_every_row_comes_back_in_order_with_its_own_story(web: Any, make_pictures: Make) -> None:
    paths = ["slow", "missing", "ok", "half_picture", "bomb", "html", "noai", "drip", "grey", "ok", "nofollow"]
    rows = make_pictures()([web.url(path) for path in paths] + [None])
    assert [(row.status, row.error) for row in rows] == [
        ("ok", None),
        ("download_failed", "http_404"),
        ("ok", None),
        ("image_invalid", "truncated"),
        ("image_invalid", "too_many_pixels"),
        ("image_invalid", "not_an_image"),
        ("opted_out", "x_robots_tag:noai"),
        ("download_failed", "timeout"),
        ("ok", None),
        ("ok", None),
        ("ok", None),
        ("download_failed", "bad_url"),
    ]
    assert rows[2] == rows[9]
    assert [rows[i].consent for i in (1, 2, 3, 6, 10)] == [
        None,
        "none_stated",
        "none_stated",
        "x_robots_tag:noai",
        "x_robots_tag:nofollow",
    ]


def test_pictures_are_resized_to_the_shorter_side_and_never_enlarged(web: Any, make_pictures: Make) -> None:
    big, grey = make_pictures(image_px=60)([web.url("big"), web.url("grey")])
    assert (big.width, big.height, big.original_width, big.original_height) == (80, 60, 400, 300)
    assert (grey.width, grey.height, grey.original_width, grey.original_height) == (50, 70, 50, 70)
    for row in (big, grey):
        assert row.image is not None
        assert decode_rgb(row.image).size == (row.width, row.height)


def test_a_grey_picture_keeps_its_grey_in_three_channels(web: Any, make_pictures: Make) -> None:
    (grey,) = make_pictures()([web.url("grey")])
    assert grey.image is not None
    assert np.abs(np.asarray(decode_rgb(grey.image), int) - 128).max() <= 2


def test_sha256_is_of_the_bytes_as_served_even_where_they_are_no_picture(make_pictures: Make) -> None:
    (row,) = make_pictures(lambda url: Outcome("ok", body=b"no picture", consent="none_stated"))(["x"])
    assert (row.status, row.sha256) == ("image_invalid", hashlib.sha256(b"no picture").hexdigest())


def test_several_chunks_at_once_give_what_each_gives_alone(web: Any, make_pictures: Make) -> None:
    pictures = make_pictures()
    chunks = [[web.url(path) for path in ("ok", "big", "missing", "grey")[start:] * 4] for start in range(4)]
    alone = [pictures(chunk) for chunk in chunks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(pictures, chunks)) == alone


def test_nothing_is_printed_and_the_terminal_survives(capfd: pytest.CaptureFixture[str], web: Any, make_pictures: Make) -> None:
    pictures = make_pictures()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(pictures, [[web.url("ok"), web.url("html")]] * 8))
    assert capfd.readouterr() == ("", "")
    print("still here", flush=True)
    assert capfd.readouterr().out == "still here\n"


def test_no_rows_are_no_work(make_pictures: Make) -> None:
    assert make_pictures()([]) == []


def test_img2dataset_itself_stays_as_it_was(web: Any, make_pictures: Make) -> None:
    make_pictures()([web.url("ok")])
    module = sys.modules["img2dataset.downloader"]
    assert module.download_image_with_retry.__module__ == "img2dataset.downloader"
    assert module.write_stats.__module__ == "img2dataset.logger"


def test_another_img2dataset_that_lacks_a_name_is_noticed() -> None:
    def loop() -> None: ...

    with pytest.raises(AttributeError, match="install img2dataset"):
        seeing(loop, no_such_name=1)
