"""Which host a URL names and which IP addresses may be connected to for it.

Everything is decided before a socket exists, and the caller connects to exactly the addresses given back: a name that resolves to
another address a moment later (DNS rebinding) changes nothing. Knows nothing of HTTP.
"""

import fnmatch
import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import idna

from capfilt.download.names import Lookup, Names, system_lookup
from capfilt.download.outcome import FetchError

MAX_URL = 8192
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
_LOOKS_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")  # of the last label, as in the WHATWG URL standard


@dataclass(frozen=True)
class Target:
    """A URL taken apart. `host` is lower-case ASCII without brackets; `path` is ready for a request line."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the Host header holds."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_url(url: str) -> Target:
    """Only http and https, no credentials, ports 1 to 65535, host names in IDNA form.

    Raises:
        FetchError: `bad_url`, whatever is wrong with it.
    """
    try:
        return _parse(url)
    except (ValueError, UnicodeError):
        raise FetchError("bad_url") from None


def _parse(url: str) -> Target:
    url = url.strip()
    if len(url) > MAX_URL:
        raise ValueError
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or parts.username is not None or parts.password is not None or "\\" in parts.netloc:
        raise ValueError
    host = _ascii_host(parts.hostname or "")
    port = _PORTS[scheme] if parts.port is None else parts.port
    if port == 0:
        raise ValueError
    # Percent-encodes spaces, controls and non-ASCII letters, so that no URL can end the request line early.
    path = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*[]")
    query = quote(parts.query, safe="/%:=&?~+!$,;'@()*[]")
    return Target(scheme, host, port, (path if path.startswith("/") else "/" + path) + (f"?{query}" if query else ""))


def one_spelling(text: str, plain: str = "-._~") -> str:
    """Escapes of letters, digits and what is in `plain` undone, the others in capitals (RFC 3986, 6.2.2)."""

    def respell(found: re.Match[str]) -> str:
        letter = chr(int(found.group()[1:], 16))
        return letter if letter.isascii() and (letter.isalnum() or letter in plain) else found.group().upper()

    return re.sub(r"%[0-9a-fA-F]{2}", respell, text)


def _ascii_host(name: str) -> str:
    if ":" in name:
        return str(ipaddress.IPv6Address(name))  # a scope (`%eth0`) survives here and is refused below, as not public
    # IDNA first: its normalisation turns letters such as ① into the digits of an address.
    host = (name if name.isascii() else _idna(name)).rstrip(".").lower()
    if len(host) > 253 or not _HOST.match(host):
        raise ValueError
    if _LOOKS_NUMERIC.match(host.rsplit(".", 1)[-1]):
        return str(ipaddress.IPv4Address(socket.inet_aton(host))) if _is_inet(host) else _no_host()
    return host


def _idna(name: str) -> str:
    """As browsers do (UTS 46, non-transitional); Python's own codec is of 2003 and makes another host of `faß.de`."""
    if len(name) > 1000:
        raise ValueError
    mapped = idna.uts46_remap(name, std3_rules=False, transitional=False)
    return ".".join(label if label.isascii() else idna.alabel(label).decode("ascii") for label in mapped.split("."))


def _is_inet(host: str) -> bool:
    """True for all that C libraries take for an IPv4 address: 127.1, 2130706433, 0x7f.0.0.1, 017700000001."""
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True


def _no_host() -> str:
    raise ValueError


def is_public(address: str) -> bool:
    """True for an address of the open Internet; false for every private, local, reserved or translated one.

    Of IPv6 only global unicast (2000::/3) counts, without the blocks that are for documentation, tunnels or benchmarks; of the
    translations that carry an IPv4 address only NAT64's well-known prefix, judged by what it carries: IPv6-only networks need it.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return _is_public_v4(ip)
    if ip.scope_id is not None:
        return False
    if ip in _NAT64:
        return _is_public_v4(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return ip in _UNICAST and not any(ip in block for block in _NOT_PUBLIC_V6)


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
# Protocol assignments with Teredo, documentation (twice), 6to4: written out, as Python's own lists differ between patch releases.
_NOT_PUBLIC_V6 = [ipaddress.IPv6Network(block) for block in ("2001::/23", "2001:db8::/32", "3fff::/20", "2002::/16")]
_NOT_PUBLIC_V4 = [
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's platform service: a public-looking address that only its own machines reach
    )
]  # fmt: skip


def _is_public_v4(ip: ipaddress.IPv4Address) -> bool:
    return not any(ip in block for block in _NOT_PUBLIC_V4)


# Mail, chat, file and other services, to which a request of ours would be a message that somebody else wrote.
# Source: the Fetch standard, "bad port".
_BAD_PORTS = frozenset(
    {
        1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110, 111,
        113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548,
        554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665,
        6666, 6667, 6668, 6669, 6679, 6697, 10080,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Endpoint:
    """A checked place to connect to."""

    address: str
    port: int


class AddressBook:
    """Gives the checked endpoints of a target, and nothing for the rest.

    `connect_to` maps host patterns (`*.example.test`, `host` or `host:port`) to host:port, as curl's --connect-to does: what the
    operator writes there is trusted. `allow_hosts` names host:port that may be private. `lookup` resolves a name to addresses.
    """

    def __init__(self, connect_to: Mapping[str, str], allow_hosts: Sequence[str], lookup: Lookup | None = None) -> None:
        self._connect_to = [(pattern.lower(), split_host_port(place)) for pattern, place in connect_to.items()]
        self._allowed = {split_host_port(place) for place in allow_hosts}
        self._names = Names(lookup or system_lookup)

    def endpoints(self, target: Target, timeout_s: float) -> list[Endpoint]:
        """Where to connect for `target`, best first. A name is resolved once; one refused address refuses the whole name.

        Raises:
            FetchError: `refused_address`, `refused_port`, `dns_failed` or `timeout`.
        """
        mapped = self._mapped(target)
        if mapped is not None:
            return [Endpoint(address, mapped[1]) for address in self._addresses(*mapped, timeout_s)]
        is_allowed = (target.host, target.port) in self._allowed
        if not is_allowed and (target.host == "localhost" or target.host.endswith((".localhost", ".local", ".internal"))):
            raise FetchError("refused_address")
        if not is_allowed and target.port in _BAD_PORTS:
            raise FetchError("refused_port")
        addresses = self._addresses(target.host, target.port, timeout_s)
        if not is_allowed and not all(is_public(address) for address in addresses):
            raise FetchError("refused_address")
        return [Endpoint(address, target.port) for address in addresses[:4]]

    def _mapped(self, target: Target) -> tuple[str, int] | None:
        for pattern, place in self._connect_to:
            if fnmatch.fnmatchcase(target.host, pattern) or fnmatch.fnmatchcase(f"{target.host}:{target.port}", pattern):
                return place
        return None

    def _addresses(self, host: str, port: int, timeout_s: float) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        return self._names.addresses(host, port, timeout_s)


def split_host_port(place: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` in two.

    Raises:
        ValueError: For anything else, with what was expected and found.
    """
    host, _, port = place.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"expected host:port, found {place!r}; write for example `intranet.example:8080` or `[::1]:8080`")
    return host.strip("[]").lower(), int(port)
