"""Fetch one URL the guarded way: opt-outs asked for, redirects followed and re-checked, retries only where they can help.

Gives an `Outcome` and never raises. Knows nothing of pictures or tables; may be called from any number of threads.
"""

import contextlib
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin

from capfilt.download.addresses import AddressBook, Target, parse_url
from capfilt.download.blocklists import Blocklists
from capfilt.download.names import Lookup
from capfilt.download.outcome import NONE_STATED, Blocked, FetchError, OptedOut, Outcome
from capfilt.download.robots import (
    ALLOW_ALL,
    MAX_ROBOTS_BYTES,
    RobotsCache,
    RobotsRules,
    parse_robots,
    product_token,
)
from capfilt.download.stated import consent_of, respected, robots_tag_words
from capfilt.download.transport import Answer, BodyWish, Head, Transport
from capfilt.download.turns import Deadline, HostSlots

_BACK_OFF_S = 0.1  # doubled at each further attempt
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAY_GET_BETTER = frozenset({408, 425, 429, 500, 502, 503, 504})
_ENCODINGS = frozenset({"gzip", "deflate", "br", "zstd", "compress"})
_ROBOTS_REDIRECTS = 5  # RFC 9309, 2.3.1.2: at least so many, to other hosts too


@dataclass(frozen=True)
class FetchPolicy:
    """What a fetch may do; see the `download` section of a pipeline file for each."""

    connect_to: Mapping[str, str]
    allow_hosts: Iterable[str]
    max_bytes: int
    deadline_s: float
    retries: int
    per_host: int
    max_redirects: int
    respect_robots_txt: bool
    respect_x_robots_tag: frozenset[str]
    respect_tdm_reservation: bool
    user_agent: str


class GuardedFetch:
    """Bytes of a URL within limits, with connections, slots and robots.txt shared by all calls."""

    def __init__(
        self,
        policy: FetchPolicy,
        blocklists: Blocklists | None = None,
        *,
        lookup: Lookup | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._policy = policy
        self._blocklists = blocklists or Blocklists()
        self._agent = product_token(policy.user_agent)
        book = AddressBook(policy.connect_to, list(policy.allow_hosts), lookup)
        self._transport = Transport(book, user_agent=policy.user_agent, tls=tls)
        self._slots = HostSlots(policy.per_host)
        self._robots = RobotsCache(self._fetched_robots)

    def __call__(self, url: str | None) -> Outcome:
        """What came of `url`, within `deadline_s` plus the time spent waiting for a turn and for a host's robots.txt."""
        try:
            return self._fetched(url)
        except OptedOut as refusal:
            return Outcome("opted_out", refusal.consent, consent=refusal.consent)
        except Blocked as block:
            return Outcome("download_blocked", block.code)
        except FetchError as failure:
            return Outcome("download_failed", failure.code)
        except Exception as error:  # a bug must not cost the chunk its other rows; the class name makes it findable
            return Outcome("download_failed", f"internal_error:{type(error).__name__}")

    def close(self) -> None:
        self._transport.close()

    def _fetched(self, url: str | None) -> Outcome:
        target = parse_url(url or "")
        deadline = Deadline(self._policy.deadline_s)
        consent = NONE_STATED

        def wish(head: Head) -> int:
            nonlocal consent
            consent = self._consent(head)
            _refuse_encoding(head)
            return self._policy.max_bytes if head.status in (200, 203) else 0

        answer = self._followed(
            target, deadline, wish, redirects=self._policy.max_redirects, ask_robots=self._policy.respect_robots_txt
        )
        if answer.body is None:
            raise FetchError(f"http_{answer.head.status}")
        self._blocklists.check_picture(answer.body)
        return Outcome("ok", body=answer.body, consent=consent)

    def _consent(self, head: Head) -> str:
        """What the headers say, on redirects too; an error page speaks for no picture.

        Raises:
            OptedOut: Where they say something that the policy respects.
        """
        if not 200 <= head.status < 400:
            return NONE_STATED
        words = robots_tag_words(head.headers.get_all("X-Robots-Tag", []), self._agent)
        is_reserved = "1" in [value.strip() for value in head.headers.get_all("TDM-Reservation", [])]
        hits = respected(words, self._policy.respect_x_robots_tag)
        if hits or (is_reserved and self._policy.respect_tdm_reservation):
            raise OptedOut(consent_of(hits, is_reserved and self._policy.respect_tdm_reservation))
        return consent_of(words, is_reserved)

    def _followed(
        self, target: Target, deadline: Deadline, wish: BodyWish, *, redirects: int, ask_robots: bool, cut: bool = False
    ) -> Answer:
        retries = Retries(self._policy.retries)
        for _ in range(redirects + 1):
            self._blocklists.check_target(target)
            if ask_robots:
                with deadline.paused():
                    rules = self._robots.rules(target)
                if not rules.allows(target.path):
                    raise OptedOut("robots_txt:disallow")
            answer = self._tried(target, deadline, wish, retries, cut)
            location = answer.head.headers.get("Location")
            if answer.head.status not in _REDIRECTS or not location:
                return answer
            target = _redirected(target, location)
        raise FetchError("too_many_redirects")

    def _tried(self, target: Target, deadline: Deadline, wish: BodyWish, retries: "Retries", cut: bool) -> Answer:
        """The answer, or its failure when no attempt is left that could help. The pause between two does not hold a slot."""
        while True:
            try:
                with self._slots.hold(target.host, deadline):
                    answer = self._transport.exchange(target, deadline, wish, cut=cut, patience=1 / (1 + retries.left))
                if answer.head.status not in _MAY_GET_BETTER:
                    return answer
                failure = FetchError(f"http_{answer.head.status}", may_get_better=True)
                failure.retry_after_s = _seconds(answer.head.headers.get("Retry-After"), answer.head.headers.get("Date"))
            except FetchError as error:
                failure = error
            if not failure.may_get_better or not retries.take(failure, deadline):
                raise failure

    def _fetched_robots(self, target: Target) -> RobotsRules:
        """Rules of a host (RFC 9309, 2.3.1): 4xx allows everything; after 5xx, 429 or no answer nothing may be fetched."""

        def wish(head: Head) -> int:
            _refuse_encoding(head)
            return MAX_ROBOTS_BYTES if head.status == 200 else 0

        robots = Target(target.scheme, target.host, target.port, "/robots.txt")
        redirects = max(_ROBOTS_REDIRECTS, self._policy.max_redirects)
        try:
            answer = self._followed(
                robots, Deadline(self._policy.deadline_s), wish, redirects=redirects, ask_robots=False, cut=True
            )
        except Blocked:
            raise FetchError("robots_txt_unavailable") from None
        except FetchError as failure:
            if failure.code == "too_many_redirects":
                return ALLOW_ALL  # 2.3.1.2: may be taken as unavailable
            if failure.code.startswith(("http_", "content_encoding")):
                raise FetchError("robots_txt_unavailable") from None
            raise FetchError(failure.code) from None
        if answer.body is not None:
            return parse_robots(answer.body.decode("utf-8", "replace"), self._agent)
        if answer.head.status >= 500:
            raise FetchError("robots_txt_unavailable")
        return ALLOW_ALL


class Retries:
    """Attempts left for one URL over all its redirects, with the pause before each."""

    def __init__(self, left: int) -> None:
        self.left = left
        self._pause_s = _BACK_OFF_S

    def take(self, failure: FetchError, deadline: Deadline) -> bool:
        """Sleep and return True; False where no attempt is left or the deadline would end first."""
        try:
            left_s = deadline.left()
        except FetchError:
            return False
        pause_s = max(self._pause_s, failure.retry_after_s or 0.0)
        if self.left <= 0 or pause_s >= left_s:
            return False
        self.left -= 1
        self._pause_s *= 2
        time.sleep(pause_s)
        return True


def _redirected(target: Target, location: str) -> Target:
    """Where a Location header leads. http.client reads headers as Latin-1; hosts write UTF-8 where they write other letters."""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        location = urljoin(target.url, location.strip())
    except ValueError:
        raise FetchError("bad_url") from None
    return parse_url(location)


def _refuse_encoding(head: Head) -> None:
    """We asked for `identity`; unpacking what comes nevertheless would open a second way to a bomb."""
    encoding = (head.headers.get("Content-Encoding") or "identity").strip().lower()
    if 200 <= head.status < 300 and encoding not in ("identity", ""):
        raise FetchError(f"content_encoding:{encoding if encoding in _ENCODINGS else 'other'}")


def _seconds(value: str | None, date: str | None) -> float | None:
    """A Retry-After in seconds, in either of its forms; a moment counts from the host's own `date`, else from our clock."""
    value = (value or "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max(0.0, (moment - now).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
