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
    """How pictures are fetched and kept. Sizes, limits and `blocklists` hold for pictures from the input too."""

    connect_to: dict[str, str] = operational(default={})
    """Host pattern -> where to connect instead: host:port, or `miniweb` for the small web. Like curl's --connect-to; may be a
    private address."""
    allow_hosts: list[str] = operational(default=[])  # host:port that may be private addresses; all others are refused
    resize: Literal["keep_ratio"] = "keep_ratio"  # a smaller picture keeps the ratio of its sides
    image_px: Positive = 384  # pixels of the stored picture's shorter side; a smaller picture is never enlarged
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95  # of the stored JPEG, 1 to 100
    max_bytes: Positive = 20_000_000  # of the picture as served; a larger one is `download_failed`, too_large
    max_pixels: Positive = 50_000_000
    """Width x height as served, checked before decoding; more is `image_invalid`, too_many_pixels."""
    blur_boxes: str | None = None
    """Carried column with boxes to blur, faces for example: a list of [x0, y0, x1, y1] as shares of the upright picture's width
    and height, 0 to 1, or the same as JSON text. A row with another thing there is `image_invalid`."""
    deadline_s: float = operational(default=20.0, gt=0)  # seconds for one URL: all attempts, redirects and body together
    retries: int = operational(default=1, ge=0)  # further attempts per URL, where one may help: a broken connection, 429, 503 …
    per_host: int = operational(default=8, ge=1)  # connections to one host at once, over all download actors
    max_redirects: int = operational(default=5, ge=0)  # more end as `download_failed`, too_many_redirects
    respect_robots_txt: bool = True  # ask each host's robots.txt; what it disallows is not fetched: `opted_out`
    respect_x_robots_tag: list[str] = ["noai", "noimageai", "noindex", "noimageindex"]
    """Words of the header X-Robots-Tag that make a picture `opted_out`; others are only noted in `consent`."""
    respect_tdm_reservation: bool = True  # the header `tdm-reservation: 1` makes a picture `opted_out`; false: only noted
    blocklists: BlocklistsConfig = BlocklistsConfig()  # hosts, URLs and pictures of your own to leave out: `download_blocked`
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
