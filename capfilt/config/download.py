"""Section `download`: how pictures are fetched and kept."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from capfilt.config.base import Positive, Section, operational


class BlocklistsConfig(Section):
    """Files with one entry per line and `#` comments, also gzipped; what they hold is neither asked for nor kept."""

    domains: list[str] = []  # files of host names, each with its subdomains; asked before any request, of redirects too
    urls: list[str] = []  # files of URLs, http and https alike; asked before any request, of redirects too
    sha256: list[str] = []  # files of hex digests of known-bad pictures, of their bytes as served; asked before decoding


class DownloadConfig(Section):
    connect_to: dict[str, str] = operational(default={})  # host pattern -> host:port, or `miniweb`
    allow_hosts: list[str] = operational(default=[])  # host:port that may be a private address
    resize: Literal["keep_ratio"] = "keep_ratio"
    image_px: Positive = 384  # shorter side, never enlarged
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    max_bytes: Positive = 20_000_000
    max_pixels: Positive = 50_000_000  # checked before decoding
    blur_boxes: str | None = None
    """Carried column with boxes to blur, faces for example: a list of [x0, y0, x1, y1] as shares of the upright picture's width
    and height, 0 to 1, or the same as JSON text. A row with another thing there is `image_invalid`."""
    deadline_s: float = operational(default=20.0, gt=0)  # all attempts, redirects and body together
    retries: int = operational(default=1, ge=0)
    per_host: int = operational(default=8, ge=1)  # connections at once, over all download actors
    max_redirects: int = operational(default=5, ge=0)
    respect_robots_txt: bool = True
    respect_x_robots_tag: list[str] = ["noai", "noimageai", "noindex", "noimageindex"]
    respect_tdm_reservation: bool = True  # the header `tdm-reservation: 1`
    blocklists: BlocklistsConfig = BlocklistsConfig()
    user_agent: str = operational(default="capfilt/0.1 (+https://example.org/about-our-crawler)")  # its first word is our name

    @field_validator("user_agent")
    @classmethod
    def _says_who_we_are(cls, value: str) -> str:
        if not re.match(r"[A-Za-z_-]+[\x20-\x7e]*\Z", value):
            raise ValueError(
                f"expected a name that hosts can address, in plain ASCII letters, found {value!r}. Write for example "
                "`my-crawler/1.0 (+https://example.org/about)`"
            )
        return value
