"""What must never be fetched or kept, whatever hosts say: lists of domains, of URLs, of pictures by the SHA-256 of their bytes.

Plain text files, one entry per line; empty lines and what follows a `#` at a line's start or after a space do not count. They may
be gzipped and may lie behind any fsspec address. Millions of entries are fine: 8 bytes are held of each, as a hash, so that one
address in about 10^13 is blocked by mistake where a list holds a million.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import IO, Any

import fsspec
import numpy as np

from capfilt.download.addresses import Target, one_spelling, parse_url
from capfilt.download.outcome import Blocked, FetchError
from capfilt.errors import InputError

_COMMENT = re.compile(r"(^|\s)#.*")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Blocklists:
    """The three lists. Without files, nothing is blocked and nothing computed.

    Args:
        sha256: Files of hex digests of pictures as served; a file name after the digest, as sha256sum writes it, is passed over.
        urls: Files of URLs; scheme, fragment, default port and the spelling of escapes do not count.
        domains: Files of host names, each with all its subdomains, or of IP addresses.

    Raises:
        InputError: If a file cannot be read, or a line is not what the list is of.
    """

    def __init__(self, *, sha256: Sequence[str] = (), urls: Sequence[str] = (), domains: Sequence[str] = ()) -> None:
        self._sha256 = _Hashes(sha256, _digest_key, "64 hex digits of a SHA-256")
        self._urls = _Hashes(urls, _url_line_key, "a URL")
        self._domains = _Hashes(domains, _domain_line_key, "a host name, or an IP address")

    def check_target(self, target: Target) -> None:
        """To be asked before anything is sent, and of every redirect's target.

        Raises:
            Blocked: `blocklist:domain` or `blocklist:url`.
        """
        if self._domains and any(_key(name) in self._domains for name in _parents(target.host)):
            raise Blocked("blocklist:domain")
        if self._urls and _url_key(target) in self._urls:
            raise Blocked("blocklist:url")

    def check_row(self, url: str | None, data: bytes) -> None:
        """Of a picture that is at hand already, with the address it once had; one that is no URL is on no list.

        Raises:
            Blocked: With the list's code.
        """
        if url is not None and (self._domains or self._urls):
            with contextlib.suppress(FetchError):
                self.check_target(parse_url(url))
        self.check_picture(data)

    def check_picture(self, data: bytes) -> None:
        """To be asked of the bytes as served, before anything decodes them.

        Raises:
            Blocked: `blocklist:sha256`.
        """
        if self._sha256 and hashlib.sha256(data).digest()[:8] in self._sha256:
            raise Blocked("blocklist:sha256")


class _Hashes:
    """A set of 8-byte keys in as many bytes: a sorted array."""

    def __init__(self, paths: Sequence[str], key_of: Callable[[str], bytes], kind: str) -> None:
        keys = bytearray()
        for path in paths:
            for number, line in _lines(path):
                try:
                    keys += key_of(line)
                except (ValueError, FetchError):
                    raise InputError(
                        f"{path}:{number}: expected {kind}, found {line[:80]!r}. Mend the line, or put a # before it"
                    ) from None
        self._sorted = np.unique(np.frombuffer(bytes(keys), np.uint64))

    def __bool__(self) -> bool:
        return len(self._sorted) > 0

    def __contains__(self, key: bytes) -> bool:
        wanted = np.frombuffer(key, np.uint64)[0]
        at = int(np.searchsorted(self._sorted, wanted))
        return at < len(self._sorted) and bool(self._sorted[at] == wanted)


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Line number, from 1, and entry."""
    try:
        with fsspec.open(path, "rt", encoding="utf-8-sig", compression="infer") as opened:
            file: IO[Any] = opened
            for number, line in enumerate(file, 1):
                entry = _COMMENT.sub("", line).strip()
                if entry:
                    yield number, entry
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise InputError(
            f"{path}: expected a blocklist, a text file in UTF-8 with one entry per line, found {error}. "
            "Check `download.blocklists`"
        ) from None


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _digest_key(line: str) -> bytes:
    digest = line.split()[0].lower()
    if not _SHA256.match(digest):
        raise ValueError
    return bytes.fromhex(digest)[:8]


def _domain_line_key(line: str) -> bytes:
    name = line.removeprefix("*").removeprefix(".")
    target = parse_url(f"http://[{name}]/" if name.count(":") > 1 and not name.startswith("[") else f"http://{name}/")
    if target.path != "/" or target.port != 80:
        raise ValueError
    return _key(target.host)


def _url_line_key(line: str) -> bytes:
    return _url_key(parse_url(line if "://" in line else f"http://{line}"))


def _parents(host: str) -> Iterator[str]:
    """`a.b.example`, `b.example`, `example`; of an IP address only itself."""
    yield host
    if ":" in host or host.rsplit(".", 1)[-1].isdigit():
        return
    while "." in host:
        host = host.partition(".")[2]
        yield host


def _url_key(target: Target) -> bytes:
    path, question, query = target.path.partition("?")
    return _key(target.authority + _without_dots(one_spelling(path)) + question + one_spelling(query))


def _without_dots(path: str) -> str:
    """The path a host sees behind `.` and `..` (RFC 3986, 5.2.4), and behind doubled slashes."""
    kept: list[str] = []
    parts = path.split("/")
    for part in parts:
        if part == "..":
            del kept[-1:]
        elif part not in ("", "."):
            kept.append(part)
    return "/" + "/".join(kept) + ("/" if kept and parts[-1] in ("", ".", "..") else "")
