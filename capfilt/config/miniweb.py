"""The section of the small web on loopback, which only the quickstart and the debug run have.

Says how large and how bad the web is; the shares of each kind of noise and of bad URL are tables in `capfilt.miniweb`.
"""

from typing import Literal

from pydantic import Field

from capfilt.config.base import Positive, Section, Share


class MiniwebConfig(Section):
    """A small web of drawn pictures, served on this machine, about which the truth is known."""

    pictures: Positive = 4000  # rows of web.parquet, one URL each
    human_pairs: Positive = 400  # pictures with human texts, several wordings each
    heldout_pairs: Positive = 500  # pictures for `evaluate`, two or three texts each
    labelled_pictures: int = Field(default=0, ge=0)  # of one thing, with its colour and shape as label
    hosts: list[str] = Field(
        default=["a.miniweb.test", "b.miniweb.test", "norobots.miniweb.test"], min_length=2
    )  # names in the URLs; the last one's robots.txt disallows everything
    preset: Literal["quick", "hard"] = "quick"  # the world's vocabulary
    unseen: bool = False  # adds a noise kind and colour-shape combinations that were never used while choosing the recipe
    two_things: Share = 0.33  # share of scenes with two things and a relation
    bad_urls: Share = 0.18  # share of URLs that must not yield a picture
    duplicates: Share = 0.07  # share of exact, near and held-out duplicates together
