"""What hosts say about crawling in their robots.txt (RFC 9309): its rules for us, and a bounded memory of them.

Parses, decides and remembers; fetches nothing. `urllib.robotparser` is not used: it takes the first rule instead of the longest
and knows no `*` and `$`, so it would overlook `Disallow: /*.jpg$`, the way in which hosts keep pictures back.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from capfilt.download.addresses import Target, one_spelling
from capfilt.download.outcome import FetchError

MAX_ROBOTS_BYTES = 512_000  # RFC 9309 asks for at least 500 KiB; the rest is not read
_HOSTS = 20_000
_RULES_BYTES = 64_000_000  # of all remembered rules together; most hosts need some hundred
_RULES_S = 24 * 3600.0  # RFC 9309: no longer than a day
_FAILURE_S = 300.0
_TOKEN = re.compile(r"[A-Za-z_-]+")
_PLAIN = "-._~!&'()+,:;=@[]"  # the same whether escaped or not; `/`, `?`, `%`, `*` and `$` are not


def product_token(user_agent: str) -> str:
    """`capfilt` of `capfilt/0.1 (+https://…)`: the name that hosts address."""
    found = _TOKEN.match(user_agent.strip())
    return found.group().lower() if found else "*"


@dataclass(frozen=True)
class RobotsRules:
    """The rules that hold for one agent: (is allowed, pattern), in the file's order."""

    rules: tuple[tuple[bool, str], ...] = ()

    def allows(self, path: str) -> bool:
        """The longest matching pattern decides, `Allow` among equals; robots.txt itself may always be read."""
        path = _normal_path(path)
        if path == "/robots.txt":
            return True
        best = max(((len(pattern), allowed) for allowed, pattern in self.rules if _matches(pattern, path)), default=(0, True))
        return best[1]

    @property
    def size(self) -> int:
        """About how many bytes they take in memory."""
        return sum(len(pattern) + 160 for _, pattern in self.rules) + 400


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
            groups[-1].agents |= _agents(value)
            is_naming = True
        elif key in ("allow", "disallow"):
            is_naming = False
            if groups and value:  # an empty pattern matches nothing
                groups[-1].rules.append((key == "allow", _normal_rule(value)))
    named = [group for group in groups if agent in group.agents] or [group for group in groups if "*" in group.agents]
    return RobotsRules(tuple(rule for group in named for rule in group.rules))


def _agents(value: str) -> set[str]:
    """Whom a User-agent line names: nobody that we could be where it begins with no product token, as `360Spider` and `008`."""
    if value.split()[:1] == ["*"]:
        return {"*"}
    found = _TOKEN.match(value)
    return {found.group().lower()} if found else set()


def _normal_path(path: str) -> str:
    """What a rule is compared with (RFC 9309, 2.2.2): one spelling of escapes, no `.` and `..`, a literal `*` and `$` escaped."""
    path, question, query = _spelled(path).partition("?")
    first, *parts = path.split("/")
    kept: list[str] = []
    for part in parts:
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
    if parts and parts[-1] in (".", ".."):
        kept.append("")
    return "/".join([first, *kept]) + question + query


def _normal_rule(value: str) -> str:
    """The same spelling, with `*` and a final `$` left to match."""
    return _spelled(value.removesuffix("$"), "*") + ("$" if value.endswith("$") else "")


def _spelled(text: str, also: str = "") -> str:
    return one_spelling(quote(text, safe=f"/?%{_PLAIN}{also}", errors="replace"), _PLAIN)


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


class RobotsCache:
    """Rules per host, asked for once while others wait; failures are remembered for a short time only.

    The hosts longest out of use are forgotten: there are never more than `hosts`, and their rules take at most `limit` bytes.
    """

    def __init__(self, fetch: Callable[[Target], RobotsRules], *, hosts: int = _HOSTS, limit: int = _RULES_BYTES) -> None:
        self._fetch = fetch
        self._hosts, self._limit = hosts, limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str, int], _Entry] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of the rules that are remembered."""
        return self._size

    def rules(self, target: Target) -> RobotsRules:
        """The rules of the target's host.

        Raises:
            FetchError: With the code for which they could not be had.
        """
        key = (target.scheme, target.host, target.port)
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if time.monotonic() >= entry.expires:
                self._ask(entry, target)
                self._weigh(key, entry)
            found = entry.found
        if isinstance(found, str):
            raise FetchError(found)
        return found

    def _ask(self, entry: "_Entry", target: Target) -> None:
        try:
            entry.found = self._fetch(target)
            entry.expires = time.monotonic() + _RULES_S
        except FetchError as failure:
            entry.found = failure.code
            entry.expires = time.monotonic() + _FAILURE_S

    def _weigh(self, key: tuple[str, str, int], entry: "_Entry") -> None:
        size = 400 if isinstance(entry.found, str) else entry.found.size
        with self._lock:
            if self._entries.get(key) is not entry:
                return  # forgotten while its host was asked
            self._size += size - entry.size
            entry.size = size
            while len(self._entries) > 1 and (self._size > self._limit or len(self._entries) > self._hosts):
                _, oldest = self._entries.popitem(last=False)
                self._size -= oldest.size


class _Entry:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.expires = float("-inf")
        self.size = 0
        self.found: RobotsRules | str = ALLOW_ALL
