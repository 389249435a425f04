"""Download: url -> image bytes, sizes, sha256, consent; or a status that says why not. Bytes of the input are not fetched.

Turns the `download` section into a guarded fetch inside img2dataset's loop; knows nothing of how either works.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.config.download import DownloadConfig
from capfilt.download.blocklists import Blocklists
from capfilt.download.boxes import Boxes, BoxesError, read_boxes
from capfilt.download.fetch import FetchPolicy, GuardedFetch
from capfilt.download.outcome import Blocked, Outcome
from capfilt.download.pictures import Downloaded, PictureDownloader
from capfilt.errors import InputError
from capfilt.schema import COLUMNS, UPSTREAM

_DECODERS = 2


class DownloadStage:
    """Connections, slots per host and robots.txt are shared by all calls; two to four calls at once keep the threads busy while a
    chunk waits for its slowest URL. `connect_to` is the config's, with every place resolved to host:port."""

    name = "download"
    reads: tuple[str, ...] = ("row_id", "url", "image")
    writes: tuple[str, ...] = (
        "status",
        "error",
        "image",
        "width",
        "height",
        "original_width",
        "original_height",
        "sha256",
        "consent",
    )

    def __init__(self, config: DownloadConfig, *, threads: int, connect_to: Mapping[str, str]) -> None:
        lists = config.blocklists
        self._blocklists = Blocklists(sha256=lists.sha256, urls=lists.urls, domains=lists.domains)
        self._fetch = GuardedFetch(
            FetchPolicy(
                connect_to=connect_to,
                allow_hosts=config.allow_hosts,
                max_bytes=config.max_bytes,
                deadline_s=config.deadline_s,
                retries=config.retries,
                per_host=config.per_host,
                max_redirects=config.max_redirects,
                respect_robots_txt=config.respect_robots_txt,
                respect_x_robots_tag=frozenset(word.strip().lower() for word in config.respect_x_robots_tag),
                respect_tdm_reservation=config.respect_tdm_reservation,
                user_agent=config.user_agent,
            ),
            self._blocklists,
        )
        self._max_bytes = config.max_bytes
        self._blur_boxes = config.blur_boxes
        self._downloader = partial(
            PictureDownloader, image_px=config.image_px, jpeg_quality=config.jpeg_quality, max_pixels=config.max_pixels
        )
        self._download = self._downloader(self._fetch, threads=threads)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Safe to call from several threads."""
        urls, given = table["url"].to_pylist(), table["image"].to_pylist()
        rows: list[Downloaded | None] = [None] * table.num_rows
        boxes: list[Boxes | None] = [None] * table.num_rows
        for row, value in enumerate(self._carried_boxes(table)):
            try:
                boxes[row] = read_boxes(value)
            except BoxesError:  # a picture that should be blurred and cannot be is not asked for
                rows[row] = Downloaded("image_invalid", "bad_boxes", None)
        to_fetch = [row for row, image in enumerate(given) if image is None and rows[row] is None]
        to_keep = [row for row, image in enumerate(given) if image is not None and rows[row] is None]
        fetched = self._download([urls[row] for row in to_fetch], [boxes[row] for row in to_fetch])
        kept = self._keep([(urls[row], given[row]) for row in to_keep], [boxes[row] for row in to_keep])
        for row, done in zip([*to_fetch, *to_keep], [*fetched, *kept], strict=True):
            rows[row] = done
        types = {column.name: column.type for column in COLUMNS}
        assert set(self.writes) == {field.name for field in fields(Downloaded)}
        for name in self.writes:
            values = pa.array([getattr(row, name) for row in rows], types[name])
            field = pa.field(name, types[name])
            at = table.schema.get_field_index(name)
            table = table.append_column(field, values) if at < 0 else table.set_column(at, field, values)
        return table

    def _carried_boxes(self, table: pa.Table) -> list[Any]:
        if self._blur_boxes is None:
            return []
        found = [field.name for field in table.schema.field(UPSTREAM).type] if UPSTREAM in table.column_names else []
        if self._blur_boxes not in found:
            raise InputError(
                f"download.blur_boxes: expected a carried column `{self._blur_boxes}`, found "
                f"{', '.join(found) or 'no carried column'}. Add `{self._blur_boxes}` to `read.keep_columns`"
            )
        boxes: list[Any] = pc.struct_field(table[UPSTREAM], self._blur_boxes).to_pylist()
        return boxes

    def _keep(self, pictures: Sequence[tuple[str | None, bytes]], boxes: Sequence[Boxes | None]) -> list[Downloaded]:
        """Pictures from the input, on the way that downloaded ones go: same limits, lists, size and encoding."""

        def look_up(key: str | None) -> Outcome:
            url, body = pictures[int(key or 0)]
            try:
                self._blocklists.check_row(url, body)
            except Blocked as block:
                return Outcome("download_blocked", block.code)
            return Outcome("download_failed", "too_large") if len(body) > self._max_bytes else Outcome("ok", body=body)

        # No thread has to wait for a host; decoding is what takes time.
        return self._downloader(look_up, threads=_DECODERS)([str(key) for key in range(len(pictures))], boxes) if pictures else []

    def close(self) -> None:
        """Close idle connections."""
        self._fetch.close()
