"""What hosts say about crawling: robots.txt rules (RFC 9309) and the X-Robots-Tag header.

Parses and decides; fetches nothing. `urllib.robotparser` is not used: it takes the first rule instead of the longest and knows no
`*` and `$`, so it would overlook `Disallow: /*.jpg$`, the way in which hosts keep pictures back.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from capfilt.download.outcome import NONE_STATED

MAX_ROBOTS_BYTES = 512_000  # RFC 9309 asks for at least 500 KiB; the rest is not read
_VALUE_WORDS = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_HARMLESS = frozenset({"all", "index", "follow", "archive", "max-snippet", "max-image-preview", "max-video-preview"})
_AGENT = re.compile(r"(\*|[a-z_-][a-z0-9_.-]*)\Z")


def product_token(user_agent: str) -> str:
    """`capfilt` of `capfilt/0.1 (+https://…)`: the name that hosts address."""
    found = re.match(r"[A-Za-z_-]+", user_agent.strip())
    return found.group().lower() if found else "*"


@dataclass(frozen=True)
class RobotsRules:
    """The rules that hold for one agent: (is allowed, pattern), in the file's order."""

    rules: tuple[tuple[bool, str], ...] = ()

    def allows(self, path: str) -> bool:
        """The longest matching pattern decides, `Allow` among equals; robots.txt itself may always be read."""
        if path == "/robots.txt":
            return True
        path = _normal(path)
        best = max(((len(pattern), allowed) for allowed, pattern in self.rules if _matches(pattern, path)), default=(0, True))
        return best[1]


ALLOW_ALL = RobotsRules()
DISALLOW_ALL = RobotsRules(((False, "/"),))


@dataclass
class _Group:
    agents: set[str] = field(default_factory=set)
    rules: list[tuple[bool, str]] = field(default_factory=list)


def parse_robots(text: str, agent: str) -> RobotsRules:
    """The rules of all groups that name `agent` (a product token, lower case), else of all groups for `*`."""
    groups: list[_Group] = []
    is_naming = False
    for raw in text.lstrip("\ufeff").splitlines():
        key, colon, value = raw.split("#", 1)[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            if not is_naming:
                groups.append(_Group())
            groups[-1].agents.add(product_token(value) if value != "*" else "*")
            is_naming = True
        elif key in ("allow", "disallow"):
            is_naming = False
            if groups and value:  # an empty pattern matches nothing
                groups[-1].rules.append((key == "allow", _normal(value)))
    named = [group for group in groups if agent in group.agents] or [group for group in groups if "*" in group.agents]
    return RobotsRules(tuple(rule for group in named for rule in group.rules))


def _normal(path: str) -> str:
    """Percent-encoding made comparable: non-ASCII letters encoded, escapes in capitals."""
    encoded = "".join(
        letter if letter.isascii() else "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "replace")) for letter in path
    )
    return re.sub(r"%[0-9a-fA-F]{2}", lambda found: found.group().upper(), encoded)


def _matches(pattern: str, path: str) -> bool:
    """`*` is any run of letters, a final `$` the end. Piece by piece: no regular expression that a host could make explode."""
    is_anchored = pattern.endswith("$")
    pieces = pattern.removesuffix("$").split("*")
    if not path.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    if len(pieces) == 1:
        return not is_anchored or at == len(path)
    for piece in pieces[1:-1]:
        at = path.find(piece, at)
        if at < 0:
            return False
        at += len(piece)
    last = pieces[-1]
    if is_anchored:
        return len(path) - len(last) >= at and path.endswith(last)
    return path.find(last, at) >= 0


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


def consent_of(words: frozenset[str]) -> str:
    """What the pool's `consent` column holds for these words."""
    restricting = sorted(words - _HARMLESS)[:8]
    return "x_robots_tag:" + "+".join(restricting) if restricting else NONE_STATED


def respected(words: frozenset[str], respect: frozenset[str]) -> frozenset[str]:
    """The words that opt out, of those in `respect`. `none` says `noindex, nofollow`."""
    meant = words | ({"noindex", "nofollow"} if "none" in words else set())
    hits = meant & respect
    return frozenset({"none"}) if hits and not (words & respect) else frozenset(hits & words)
