"""Download and resize a list of URLs with img2dataset's Downloader and Resizer, through our fetch and our decoder.

Knows nothing of Arrow tables. What of img2dataset runs here, unchanged: the Downloader's thread loop (its pool, its bound on
downloads that wait for the Resizer, its status bookkeeping) and the Resizer's resize and JPEG encoding. What is put in its place:

    download_image_with_retry   our guarded fetch (its own reads file://, private addresses, endless bodies; see docs)
    the sample writer           a list in memory
    write_stats                 nothing: it writes clock times
    cv2.imdecode                what capfilt/images.py decoded: upright, three channels; no stranger's bytes reach OpenCV
    SuppressStdoutStderr        nothing: it exchanges the process's file descriptors, which two chunks at once would lose for ever

Both functions run as copies that see these names (`_seeing`), so that img2dataset itself stays as it was for anybody else here.
"""

import contextlib
import functools
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa

from capfilt import images
from capfilt.download.outcome import Outcome

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
        # Three seconds and 400 MB, so only here; without the variable albumentations asks the network for its newest version.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import cv2
        from img2dataset.downloader import Downloader
        from img2dataset.resizer import Resizer

        self._fetch = fetch
        self._threads = threads
        self._cv2 = cv2
        self._downloader_class: Any = Downloader
        self._resizer_call: Any = Resizer.__call__
        self._decode = functools.partial(images.decode, max_pixels=max_pixels, shorter_side=image_px)
        self._resizer = Resizer(
            image_size=image_px,
            resize_mode="keep_ratio",
            resize_only_if_bigger=True,
            encode_quality=jpeg_quality,
            encode_format="jpg",
        )

    def __call__(self, urls: Sequence[str | None]) -> list[Downloaded]:
        """One result per URL, in the order of `urls`."""
        if not urls:
            return []
        outcomes: list[Outcome | None] = [None] * len(urls)
        done: list[Downloaded | None] = [None] * len(urls)

        def download_image_with_retry(row: tuple[int, str | None], **_: Any) -> tuple[int, io.BytesIO | None, str | None]:
            key, url = row
            outcome = outcomes[key] = self._fetch(url)
            return key, None if outcome.body is None else io.BytesIO(outcome.body), outcome.error

        def write(image: bytes | None, key: str, _caption: str | None, meta: dict[str, Any]) -> None:
            row = int(key[-_COUNT_DIGITS:])
            done[row] = _downloaded(image, meta, outcomes[row])
            outcomes[row] = None  # the served bytes are not needed any longer

        path = f"memory://capfilt-{uuid.uuid4().hex}.feather"  # the Downloader reads its shard from a file, and removes it
        _write_shard(path, urls)
        downloader = self._downloader_class(
            sample_writer_class=lambda *_: _Rows(write),
            resizer=self._resized,
            thread_count=min(self._threads, len(urls)),
            save_caption=False,
            extract_exif=False,
            output_folder="",
            column_list=["url"],
            timeout=0,  # unused: the fetch has its own deadline
            number_sample_per_shard=10**_COUNT_DIGITS,
            oom_shard_count=1,
            compute_hash=None,  # it would hash, and hold, only what could be decoded
            verify_hash_type=None,
            encode_format="jpg",
            retries=0,
            user_agent_token=None,
            disallowed_header_directives=None,
        )
        download_shard = _seeing(
            self._downloader_class.download_shard,
            download_image_with_retry=download_image_with_retry,
            write_stats=lambda *_: None,
        )
        download_shard(downloader, (0, path))
        # The loop prints and passes over a row whose handling raised. Nothing above should; if it does, the row says so.
        return [row or Downloaded("download_failed", "internal_error:lost", None) for row in done]

    def _resized(self, stream: io.BytesIO, _boxes: None = None) -> tuple[Any, ...]:
        """img2dataset's resizer protocol: bytes, width, height, original width and height, error."""
        try:
            picture = self._decode(stream.getvalue())
        except images.ImageError as problem:
            return None, None, None, None, None, str(problem)
        bgr = self._cv2.cvtColor(np.asarray(picture.image), self._cv2.COLOR_RGB2BGR)
        resize = _seeing(self._resizer_call, SuppressStdoutStderr=contextlib.nullcontext, cv2=_Decoded(self._cv2, bgr))
        image, width, height, _, _, error = resize(self._resizer, io.BytesIO(b"decoded already"))
        return image, width, height, picture.width, picture.height, "resize_failed" if error is not None else None


class _Decoded:
    """OpenCV for one call of the Resizer, whose `imdecode` gives the picture that is decoded already."""

    def __init__(self, cv2: Any, bgr: np.ndarray[Any, Any]) -> None:
        self._cv2 = cv2
        self._bgr = bgr

    def imdecode(self, *_: Any) -> np.ndarray[Any, Any]:
        return self._bgr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cv2, name)


class _Rows:
    """What the Downloader takes for its sample writer."""

    def __init__(self, write: Callable[[bytes | None, str, str | None, dict[str, Any]], None]) -> None:
        self.write = write

    def close(self) -> None:
        pass


def _downloaded(image: bytes | None, meta: dict[str, Any], outcome: Outcome | None) -> Downloaded:
    """img2dataset's status and error of a row, in our words."""
    assert outcome is not None
    if outcome.body is None:
        return Downloaded(outcome.status, outcome.error, outcome.consent)
    digest = hashlib.sha256(outcome.body).hexdigest()
    if meta["status"] != "success":
        return Downloaded("image_invalid", meta["error_message"], outcome.consent, digest)
    sizes = (meta["width"], meta["height"], meta["original_width"], meta["original_height"])
    return Downloaded("ok", None, outcome.consent, digest, image, *sizes)


def _write_shard(path: str, urls: Sequence[str | None]) -> None:
    table = pa.table({"url": pa.array(urls, pa.string())})
    with fsspec.open(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _seeing(function: Any, **names: Any) -> Any:
    """A copy of `function` whose module-level `names` are these.

    Unlike patching the module, it changes nothing for others, and the names may belong to one call.
    """
    for name in names:
        if name not in function.__globals__:
            raise AttributeError(
                f"expected img2dataset's {function.__qualname__} to use `{name}`, found no such name; install img2dataset 1.47"
            )
    scope = {**function.__globals__, **names}
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
