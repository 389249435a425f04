"""One HTTP exchange with a checked address, within a deadline and byte limits; idle connections are kept for the next one.

Bytes on the wire are counted and timed here, below http.client, so that a server that drips, endlessly chunks or sends huge
headers runs into a limit wherever it does so. Knows nothing of redirects, retries or consent.
"""

import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message

from capfilt.download.addresses import AddressBook, Endpoint, Target
from capfilt.download.head import HeadReader, begin
from capfilt.download.outcome import FetchError
from capfilt.download.turns import Deadline

HEAD_BYTES = 65_536
_DRAIN_BYTES = 16_384  # of an unwanted body: reading so little costs less than a new connection
_DRAIN_S = 0.3
_IDLE_CONNECTIONS = 512
_IDLE_S = 30.0  # routers forget connections that are quiet for longer, and tell nobody
_QUIET_S = 5.0  # a connection that was used so lately is not forgotten
_FIRST_BYTE_SHARE = 0.25  # of the deadline: so long a connection that was used before may say nothing; then a new one is tried


@dataclass(frozen=True)
class Head:
    """Status line and headers of an answer."""

    status: int
    headers: Message


@dataclass(frozen=True)
class Answer:
    """`body` is None where the head alone was wanted."""

    head: Head
    body: bytes | None


BodyWish = Callable[[Head], int]
"""Looks at the head and says how many body bytes are wanted at most, 0 for none; may raise to end the exchange."""


class _Wire(io.RawIOBase):
    """The receiving side of a socket that counts bytes and gives each read only what is left of the deadline."""

    def __init__(self, connection: "_Connection", deadline: Deadline) -> None:
        self._connection = connection
        self.deadline = deadline
        self.bytes_left = HEAD_BYTES
        # Until it is heard of.
        self._may_be_forgotten = not connection.is_fresh and time.monotonic() - connection.idle_since >= _QUIET_S
        self.when_spent = "header_too_large"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        if self.bytes_left <= 0:
            raise FetchError(self.when_spent)
        sock = self._connection.sock
        sock.settimeout(self.deadline.left() * (_FIRST_BYTE_SHARE if self._may_be_forgotten else 1))
        try:
            # No more than is left: what is queued behind the head is the body's and counts there.
            count = sock.recv_into(memoryview(buffer)[: self.bytes_left])
        except TimeoutError:
            if self._may_be_forgotten:
                raise _Forgotten from None
            raise
        self._may_be_forgotten = False
        self.bytes_left -= count
        return count


class _Forgotten(Exception):
    """Nothing came on a connection that was used before: somebody on the way may have dropped it without a word."""


class _Connection:
    """A socket to a checked endpoint, with what http.client wants to see of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.wire: _Wire | None = None
        self.reader: HeadReader | None = None
        self.is_fresh = True
        self.idle_since = 0.0

    def makefile(self, mode: str) -> HeadReader:
        assert self.wire is not None
        self.reader = HeadReader(self.wire)
        return self.reader

    def is_usable(self) -> bool:
        """An idle connection with something to read was closed by the host, or holds bytes that nobody asked for."""
        if time.monotonic() - self.idle_since >= _IDLE_S:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self.sock.close()


class Transport:
    """Exchanges with any number of hosts from any number of threads."""

    def __init__(self, book: AddressBook, *, user_agent: str, tls: ssl.SSLContext | None = None) -> None:
        self._book = book
        # No line break, nor any other control, can enter a header.
        self._user_agent = "".join(letter for letter in " ".join(user_agent.split()) if letter.isprintable())
        self._tls = tls or ssl.create_default_context()
        self._lock = threading.Lock()
        self._idle: OrderedDict[tuple[str, str, int], list[_Connection]] = OrderedDict()
        self._idle_count = 0

    def exchange(self, target: Target, deadline: Deadline, wish: BodyWish, *, cut: bool = False, patience: float = 1.0) -> Answer:
        """Ask for `target` once. With `cut` a longer body is cut to what was wished for; `patience` is the share of the deadline
        that connecting may take.

        Raises:
            FetchError: With the code of what went wrong.
        """
        is_forgotten = False
        while True:
            taken = None if is_forgotten else self._taken(target)
            connection = taken or self._connected(target, deadline, patience)
            is_fresh = connection.is_fresh
            try:
                return self._asked(connection, target, deadline, wish, cut)
            except _Forgotten:
                connection.close()
                self._forget(target)
                is_forgotten = True
            except BaseException as error:
                connection.close()
                failure = _as_failure(error)
                if failure is None:
                    raise
                # The host may close an idle connection in the very moment of its reuse: that is not an attempt.
                if is_fresh or failure.code not in ("connection_failed", "bad_response"):
                    raise failure from None

    def close(self) -> None:
        with self._lock:
            for connections in self._idle.values():
                for connection in connections:
                    connection.close()
            self._idle.clear()
            self._idle_count = 0

    def _asked(self, connection: _Connection, target: Target, deadline: Deadline, wish: BodyWish, cut: bool) -> Answer:
        wire = connection.wire = _Wire(connection, deadline)
        connection.sock.settimeout(deadline.left())
        connection.sock.sendall(self._request(target))
        response = http.client.HTTPResponse(connection, method="GET")  # type: ignore[arg-type]
        try:
            assert connection.reader is not None
            begin(response, connection.reader)
            head = Head(response.status, response.headers)
            wanted = wish(head)
            wire.when_spent = "too_large"
            body, is_whole = self._body(response, wire, wanted, cut) if wanted else (None, self._drained(response, wire))
        finally:
            keep = not response.will_close and response.status >= 200
            response.close()
        if keep and is_whole:
            self._keep(target, connection)
        else:
            connection.close()
        return Answer(head, body)

    def _drained(self, response: http.client.HTTPResponse, wire: _Wire) -> bool:
        """Read away a small unwanted body for the connection's sake, and give up soon: the answer is known already."""
        if response.will_close or (response.length or 0) > _DRAIN_BYTES:
            return False
        wire.deadline = Deadline(_DRAIN_S)
        try:
            return self._body(response, wire, _DRAIN_BYTES, cut=True)[1]
        except (FetchError, OSError, http.client.HTTPException, ValueError):
            return False

    @staticmethod
    def _body(response: http.client.HTTPResponse, wire: _Wire, limit: int, cut: bool) -> tuple[bytes, bool]:
        """At most `limit` bytes and whether that was all. Chunk headers count against twice the limit."""
        declared = response.length
        if declared is not None and declared > limit and not cut:
            raise FetchError("too_large")
        wire.bytes_left = 2 * limit + HEAD_BYTES
        parts: list[bytes] = []
        size = 0
        while size <= limit:
            part = response.read(min(65_536, limit + 1 - size))
            if not part:
                break
            parts.append(part)
            size += len(part)
        if size > limit and not cut:
            raise FetchError("too_large")
        if size > limit:
            return b"".join(parts)[:limit], False
        # In Python 3.11 read(n) ends quietly where the host closed early.
        if declared is not None and size < declared:
            raise FetchError("truncated", may_get_better=True)
        return b"".join(parts), True

    def _request(self, target: Target) -> bytes:
        lines = (
            f"GET {target.path} HTTP/1.1",
            f"Host: {target.authority}",
            f"User-Agent: {self._user_agent}",
            "Accept: image/jpeg,image/png,image/webp,image/gif,image/*;q=0.8,*/*;q=0.5",
            "Accept-Encoding: identity",
            "Connection: keep-alive",
        )
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")

    def _connected(self, target: Target, deadline: Deadline, patience: float) -> _Connection:
        endpoints = self._book.endpoints(target, deadline.left())
        failure = FetchError("connection_failed", may_get_better=True)
        for index, endpoint in enumerate(endpoints):
            timeout_s = deadline.left() * patience / (len(endpoints) - index)
            try:
                return self._opened(target, endpoint, timeout_s)
            except (OSError, FetchError) as error:
                failure = _as_failure(error) or failure
                failure.may_get_better = failure.code != "tls_error"
        raise failure

    def _opened(self, target: Target, endpoint: Endpoint, timeout_s: float) -> _Connection:
        # The address is numeric, so this resolves nothing: the connection goes to what was checked.
        sock = socket.create_connection((endpoint.address, endpoint.port), timeout=timeout_s)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.scheme == "https":
                sock = self._tls.wrap_socket(sock, server_hostname=target.host)
        except BaseException:
            sock.close()
            raise
        return _Connection(sock)

    def _taken(self, target: Target) -> _Connection | None:
        key = (target.scheme, target.host, target.port)
        while True:
            with self._lock:
                connections = self._idle.get(key)
                if not connections:
                    return None
                connection = connections.pop()
                self._idle_count -= 1
                if not connections:
                    del self._idle[key]
            if connection.is_usable():
                return connection
            connection.close()

    def _forget(self, target: Target) -> None:
        """Close the host's other idle connections: the way to it is the same."""
        with self._lock:
            connections = self._idle.pop((target.scheme, target.host, target.port), [])
            self._idle_count -= len(connections)
        for connection in connections:
            connection.close()

    def _keep(self, target: Target, connection: _Connection) -> None:
        connection.is_fresh = False
        connection.wire = connection.reader = None
        connection.idle_since = time.monotonic()
        oldest: _Connection | None = None
        with self._lock:
            key = (target.scheme, target.host, target.port)
            self._idle.setdefault(key, []).append(connection)
            self._idle.move_to_end(key)
            self._idle_count += 1
            if self._idle_count > _IDLE_CONNECTIONS:
                first, connections = next(iter(self._idle.items()))
                oldest = connections.pop(0)
                self._idle_count -= 1
                if not connections:
                    del self._idle[first]
        if oldest is not None:
            oldest.close()


def _as_failure(error: BaseException) -> FetchError | None:
    """The closed code of whatever a socket, TLS or http.client raises; None for what is none of these."""
    match error:
        case FetchError():
            return error
        case TimeoutError():
            return FetchError("timeout")
        case ssl.SSLError():
            return FetchError("tls_error")
        case http.client.IncompleteRead():
            return FetchError("truncated", may_get_better=True)
        case http.client.LineTooLong():
            return FetchError("header_too_large")
        case http.client.RemoteDisconnected():
            return FetchError("connection_failed", may_get_better=True)
        case http.client.HTTPException():
            return FetchError("header_too_large" if "headers" in str(error) else "bad_response")
        case OSError():
            return FetchError("connection_failed", may_get_better=True)
        case ValueError():
            return FetchError("bad_response")
        case _:
            return None
