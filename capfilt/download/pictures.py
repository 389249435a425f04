"""Download and resize a list of URLs with img2dataset's Downloader and Resizer, through our fetch and our decoder.

Knows nothing of Arrow tables. What of img2dataset runs here, unchanged, is the Downloader's thread loop: its pool, its bound on
downloads that wait for the Resizer, its status bookkeeping. What its Resizer sees is told in `resizing`; the loop sees:

    download_image_with_retry   our guarded fetch (its own reads file://, private addresses, endless bodies; see docs)
    the sample writer           a list in memory
    write_stats                 nothing: it writes clock times
"""

import hashlib
import io
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa

from capfilt.download import img2dataset_parts
from capfilt.download.boxes import Boxes
from capfilt.download.outcome import Outcome
from capfilt.download.resizing import PictureResizer, seeing

_COUNT_DIGITS = 9


@dataclass(frozen=True)
class Downloaded:
    """One row's result; the sizes and `image` (JPEG) are there exactly when `status` is ok.

    `original_width` and `original_height` are of the upright picture as served; `sha256` of the bytes as served.
    """

    status: str
    error: str | None
    consent: str | None
    sha256: str | None = None
    image: bytes | None = None
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None


class PictureDownloader:
    """Several chunks at once may be given to one PictureDownloader; they share what `fetch` shares, and nothing else.

    Args:
        fetch: One URL to an Outcome; thread-safe, never raises.
        image_px: Shorter side of a bigger picture afterwards; smaller ones are never enlarged.
        jpeg_quality: Of the re-encoded picture.
        max_pixels: Of the picture as served, judged by its header.
        threads: Downloads at once, per call.
    """

    def __init__(
        self, fetch: Callable[[str | None], Outcome], *, image_px: int, jpeg_quality: int, max_pixels: int, threads: int
    ) -> None:
        self._fetch = fetch
        self._threads = threads
        self._resizer = PictureResizer(image_px=image_px, jpeg_quality=jpeg_quality, max_pixels=max_pixels)
        self._downloader_class: Any = img2dataset_parts.load("downloader").Downloader  # heavy, see PictureResizer

    def __call__(self, urls: Sequence[str | None], boxes: Sequence[Boxes | None] | None = None) -> list[Downloaded]:
        """One result per URL, in the order of `urls`.

        `boxes` has for each URL the places to blur, [x0, y0, x1, y1] as shares of the upright picture's width and height; None
        for none.
        """
        if not urls:
            return []
        outcomes: list[Outcome | None] = [None] * len(urls)
        digests: list[str | None] = [None] * len(urls)
        done: list[Downloaded | None] = [None] * len(urls)

        def download_image_with_retry(row: tuple[int, str | None], **_: Any) -> tuple[int, io.BytesIO | None, str | None]:
            key, url = row
            outcome = outcomes[key] = self._fetch(url)
            if outcome.body is None:
                return key, None, outcome.error
            # Here and not by `compute_hash`: every body has one, and the one thread that resizes has enough to do.
            digests[key] = hashlib.sha256(outcome.body).hexdigest()
            return key, io.BytesIO(outcome.body), outcome.error

        def write(image: bytes | None, key: str, _caption: str | None, meta: dict[str, Any]) -> None:
            row = int(key[-_COUNT_DIGITS:])
            done[row] = _downloaded(image, meta, outcomes[row], digests[row])
            outcomes[row] = None  # the served bytes are not needed any longer

        path = f"memory://capfilt-{uuid.uuid4().hex}.feather"  # the Downloader reads its shard from a file, and removes it
        _write_shard(path, urls, boxes or [None] * len(urls))
        downloader = self._downloader_class(
            sample_writer_class=lambda *_: _Rows(write),
            resizer=self._resizer.for_chunk(),
            thread_count=min(self._threads, len(urls)),
            save_caption=False,
            extract_exif=False,
            output_folder="",
            column_list=["url", "boxes"],
            blurring_bbox_col="boxes",
            timeout=0,  # unused: the fetch has its own deadline
            number_sample_per_shard=10**_COUNT_DIGITS,
            oom_shard_count=1,
            compute_hash=None,
            verify_hash_type=None,
            encode_format="jpg",
            retries=0,
            user_agent_token=None,
            disallowed_header_directives=None,
        )
        download_shard = seeing(
            self._downloader_class.download_shard,
            download_image_with_retry=download_image_with_retry,
            write_stats=lambda *_: None,
        )
        download_shard(downloader, (0, path))
        # The loop prints and passes over a row whose handling raised. Nothing above should; if it does, the row says so.
        return [row or Downloaded("download_failed", "internal_error:lost", None) for row in done]


class _Rows:
    """What the Downloader takes for its sample writer."""

    def __init__(self, write: Callable[[bytes | None, str, str | None, dict[str, Any]], None]) -> None:
        self.write = write

    def close(self) -> None:
        pass


def _downloaded(image: bytes | None, meta: dict[str, Any], outcome: Outcome | None, digest: str | None) -> Downloaded:
    """img2dataset's status and error of a row, in our words."""
    assert outcome is not None
    if outcome.body is None:
        return Downloaded(outcome.status, outcome.error, outcome.consent)
    if meta["status"] != "success":
        return Downloaded("image_invalid", meta["error_message"], outcome.consent, digest)
    sizes = (meta["width"], meta["height"], meta["original_width"], meta["original_height"])
    return Downloaded("ok", None, outcome.consent, digest, image, *sizes)


def _write_shard(path: str, urls: Sequence[str | None], boxes: Sequence[Boxes | None]) -> None:
    table = pa.table({"url": pa.array(urls, pa.string()), "boxes": pa.array(boxes, pa.list_(pa.list_(pa.float64())))})
    with fsspec.open(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
