"""Download: url -> image bytes, sizes, sha256, consent; or a status that says why not.

Turns the `download` section into a guarded fetch inside img2dataset's loop; knows nothing of how either works.
"""

from collections.abc import Mapping
from dataclasses import fields

import pyarrow as pa

from capfilt.config.download import DownloadConfig
from capfilt.download.fetch import FetchPolicy, GuardedFetch
from capfilt.download.pictures import Downloaded, PictureDownloader
from capfilt.schema import COLUMNS


class DownloadStage:
    """Connections, slots per host and robots.txt are shared by all calls; two to four calls at once keep the threads busy while a
    chunk waits for its slowest URL. `connect_to` is the config's, with every place resolved to host:port."""

    name = "download"
    reads: tuple[str, ...] = ("row_id", "url")
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
                user_agent=config.user_agent,
            )
        )
        self._download = PictureDownloader(
            self._fetch,
            image_px=config.image_px,
            jpeg_quality=config.jpeg_quality,
            max_pixels=config.max_pixels,
            threads=threads,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Safe to call from several threads."""
        rows = self._download(table["url"].to_pylist())
        types = {column.name: column.type for column in COLUMNS}
        assert set(self.writes) == {field.name for field in fields(Downloaded)}
        for name in self.writes:
            values = pa.array([getattr(row, name) for row in rows], types[name])
            field = pa.field(name, types[name])
            at = table.schema.get_field_index(name)
            table = table.append_column(field, values) if at < 0 else table.set_column(at, field, values)
        return table

    def close(self) -> None:
        """Close idle connections."""
        self._fetch.close()
