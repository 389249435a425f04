"""Section `download`: how pictures are fetched and kept."""

from typing import Annotated, Literal

from pydantic import Field

from capfilt.config.base import Positive, Section, operational


class DownloadConfig(Section):
    connect_to: dict[str, str] = operational(default={})  # host pattern -> host:port, or `miniweb`
    allow_hosts: list[str] = operational(default=[])  # host:port that may be a private address
    resize: Literal["keep_ratio"] = "keep_ratio"
    image_px: Positive = 384  # shorter side, never enlarged
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    max_bytes: Positive = 20_000_000
    max_pixels: Positive = 50_000_000  # checked before decoding
    deadline_s: float = operational(default=20.0, gt=0)  # all attempts, redirects and body together
    retries: int = operational(default=1, ge=0)
    per_host: int = operational(default=8, ge=1)  # connections at once, over all download actors
    max_redirects: int = operational(default=5, ge=0)
    respect_robots_txt: bool = True
    respect_x_robots_tag: list[str] = ["noai", "noimageai", "noindex", "noimageindex"]
    user_agent: str = operational(default="capfilt/0.1 (+https://example.org/about-our-crawler)")
