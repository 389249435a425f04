"""What hosts say about the use of a picture in the headers they send it with: X-Robots-Tag and TDM-Reservation.

Parses and decides; knows nothing of fetching. Sources: Google's description of X-Robots-Tag with the words `noai` and `noimageai`
that DeviantArt introduced; the TDM Reservation Protocol of the W3C community group, of which only the header is read, not the
file /.well-known/tdmrep.json.
"""

import re
from collections.abc import Iterable

from capfilt.download.outcome import NONE_STATED

_VALUE_WORDS = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_HARMLESS = frozenset({"all", "index", "follow", "archive", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"(\*|[a-z_-][a-z0-9_.-]*)\Z")


def robots_tag_words(values: Iterable[str], agent: str) -> frozenset[str]:
    """The words of all X-Robots-Tag headers that are for everybody or for `agent`; `none` stays `none`.

    A header may open with an agent (`otherbot: noai, noindex`), which then holds up to the next one named in it.
    """
    words: set[str] = set()
    for value in values:
        is_ours = True
        for part in value.lower().split(","):
            word = part.strip()
            name, colon, rest = (piece.strip() for piece in word.partition(":"))
            if colon and name in _VALUE_WORDS:
                word = name
            elif colon and _AGENT.match(name):
                is_ours = name in ("*", agent)
                word = rest.partition(":")[0].strip()
            if is_ours and re.match(r"[a-z][a-z0-9_-]{0,40}\Z", word):
                words.add(word)
    return frozenset(words)


def consent_of(words: frozenset[str], is_reserved: bool = False) -> str:
    """What the pool's `consent` column holds for these words, and for a host that reserves its rights (`tdm-reservation: 1`)."""
    restricting = sorted(words - _HARMLESS)[:8]
    stated = ["tdm_reservation"] if is_reserved else []
    if restricting:
        stated.append("x_robots_tag:" + "+".join(restricting))
    return ";".join(stated) or NONE_STATED


def respected(words: frozenset[str], respect: frozenset[str]) -> frozenset[str]:
    """The words that opt out, of those in `respect`. `none` says `noindex, nofollow`."""
    meant = words | ({"noindex", "nofollow"} if "none" in words else set())
    hits = meant & respect
    return frozenset({"none"}) if hits and not (words & respect) else frozenset(hits & words)
