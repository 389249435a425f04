"""A hostile web on loopback, small enough to read: each path plays one trick."""

import io
import socket
import socketserver
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from capfilt.download.fetch import FetchPolicy, GuardedFetch

HOST = "web.test"


def jpeg(width: int = 60, height: int = 40, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(out, "JPEG", quality=90)
    return out.getvalue()


class Web(ThreadingHTTPServer):
    """`hits` counts requests by path; `robots` is what /robots.txt answers, (status, text)."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Tricks)
        self.hits: Counter[str] = Counter()
        self.connections = 0
        self.robots: tuple[int, str] = (404, "")
        self.locations: dict[str, str] = {}
        self.retry_after = "0"
        self.paths: list[str] = []
        self.user_agents: set[str] = set()
        self.encodings: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that hang up are the point

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def url(self, path: str) -> str:
        return f"http://{HOST}/{path}"


class Tricks(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, *_: object) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.asked_here = 0
        with self.server.lock:
            self.server.connections += 1

    def do_GET(self) -> None:
        path = self.path.strip("/").partition("?")[0]
        with self.server.lock:
            self.asked_here += 1
            self.server.hits[path] += 1
            self.server.paths.append(self.path)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            self.server.user_agents.add(self.headers["User-Agent"])
            self.server.encodings.add(self.headers["Accept-Encoding"])
        try:
            trick = getattr(self, path.replace(".", "_").replace("-", "_").partition("/")[0], None)
            if path in self.server.locations:
                self.give(302, b"", Location=self.server.locations[path])
            elif trick is None:
                self.give(404, b"nothing here")
            else:
                trick()
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def give(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def raw(self, data: bytes) -> None:
        self.close_connection = True
        self.wfile.write(data)

    def for_ever(self, part: bytes, pause_s: float) -> None:
        self.close_connection = True
        while not self.server.over.wait(pause_s):
            self.wfile.write(part)

    # ── the tricks, by path ─────────────────────────────────────────────────────────────────────────────────

    def robots_txt(self) -> None:
        status, text = self.server.robots
        self.give(status, text.encode())

    def ok(self) -> None:
        self.give(200, jpeg(), Content_Type="image/jpeg")

    def big(self) -> None:
        self.give(200, jpeg(400, 300))

    def chunked(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (jpeg()[:100], jpeg()[100:]):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def until_close(self) -> None:
        self.raw(b"HTTP/1.0 200 OK\r\n\r\n" + jpeg())

    def busy_once(self) -> None:
        if self.server.hits["busy_once"] == 1:
            self.give(503, b"busy")
        else:
            self.ok()

    def busy(self) -> None:
        self.give(503, b"busy")

    def wait_long(self) -> None:
        self.give(429, b"", Retry_After="3600")

    def slow(self) -> None:
        self.server.over.wait(0.15)
        self.ok()

    def pause(self) -> None:
        self.server.over.wait(0.05)
        self.ok()

    def forgetful(self) -> None:
        """Answers on new connections only."""
        if self.asked_here > 1:
            self.silent()
        else:
            self.ok()

    def silent(self) -> None:
        self.close_connection = True
        self.server.over.wait(5)

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.for_ever(b"\xff", 0.03)

    def drip_head(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        self.for_ever(b"a", 0.03)

    def drip_404(self) -> None:
        self.raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9000\r\n\r\n")
        self.for_ever(b"a", 0.03)

    def cut_off(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + jpeg()[:200])

    def cut_off_chunk(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\nabc")

    def too_large(self) -> None:
        self.give(200, b"x" * 200_000)

    def endless(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.for_ever(b"1000\r\n" + b"x" * 4096 + b"\r\n", 0)

    def endless_extensions(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.for_ever(b"1;" + b"e" * 20_000 + b"\r\nx\r\n", 0)

    def endless_head(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\n")
        self.for_ever(b"X-Big: " + b"y" * 8000 + b"\r\n", 0)

    def endless_line(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nX-Big: ")
        self.for_ever(b"y" * 8000, 0)

    def many_headers(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 500 + b"\r\n")

    def continues(self) -> None:
        self.for_ever(b"HTTP/1.1 100 Continue\r\n\r\n", 0)

    def hints(self) -> None:
        self.for_ever(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n", 0)

    def early_hints(self) -> None:
        for line in (b"102 Processing", b"103 Early Hints\r\nLink: </a.css>", b"100 Continue"):
            self.wfile.write(b"HTTP/1.1 " + line + b"\r\n\r\n")
            self.server.over.wait(0.02)
        self.give(200, jpeg(seed=1))

    def switching(self) -> None:
        """Nobody asked for another protocol, and what follows would be the next one's answer."""
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        self.server.over.wait(0.05)
        self.give(200, jpeg(seed=1))

    def malformed_head(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nPowered by nothing\r\nX-Robots-Tag: noarchive\r\nContent-Length: %d\r\n\r\n"
        self.wfile.write(head % len(jpeg()) + jpeg())

    def malformed_noai(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nPowered by nothing\r\nX-Robots-Tag: noai\r\nTDM-Reservation: 1\r\n\r\n" + jpeg())

    def spaced_noai(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nX-Robots-Tag : noai\r\n\r\n" + jpeg())

    def malformed_location(self) -> None:
        self.raw(b"HTTP/1.1 302 Found\r\nmoved\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n")

    def head_in_two(self) -> None:
        """Most of a head as large as may be, then its end and a body that does not fit beside it."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"X-Pad: " + b"y" * 991 + b"\r\n") * 60)
        self.server.over.wait(0.05)
        self.wfile.write(b"Content-Length: 90000\r\n\r\n" + b"z" * 90_000)

    def garbage(self) -> None:
        self.raw(b"\x00\x01\x02 this is no HTTP\r\n\r\n")

    def hang_up(self) -> None:
        self.close_connection = True

    def lies_about_length(self) -> None:
        self.give(200, jpeg(), Content_Length="-5", Connection="close")

    def gzip(self) -> None:
        self.give(200, b"\x1f\x8b" + b"0" * 50, Content_Encoding="gzip")

    def html(self) -> None:
        self.give(200, b"<!doctype html><html><body>moved</body></html>", Content_Type="image/jpeg")

    def half_picture(self) -> None:
        self.give(200, jpeg(200, 200)[:1500])

    def bomb(self) -> None:
        out = io.BytesIO()
        Image.new("1", (1100, 1000)).save(out, "PNG")
        self.give(200, out.getvalue())

    def grey(self) -> None:
        out = io.BytesIO()
        Image.new("L", (50, 70), 128).save(out, "PNG")
        self.give(200, out.getvalue())

    def noai(self) -> None:
        self.give(200, jpeg(), X_Robots_Tag="noarchive, NoAI")

    def noai_for_us(self) -> None:
        self.give(200, jpeg(), X_Robots_Tag="capfilt: noimageai")

    def noai_for_others(self) -> None:
        self.give(200, jpeg(), X_Robots_Tag="otherbot: noai, noindex")

    def none(self) -> None:
        self.give(200, jpeg(), X_Robots_Tag="none")

    def reserved_in_the_end(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\nTDM-Reservation: 0\r\nTDM-Reservation: 1\r\n\r\n" + jpeg())

    def reserved(self) -> None:
        self.give(200, jpeg(), TDM_Reservation="1", TDM_Policy="https://web.test/policy", X_Robots_Tag="nofollow")

    def not_reserved(self) -> None:
        self.give(200, jpeg(), TDM_Reservation="0")

    def wait_until(self) -> None:
        if self.server.hits["wait_until"] > 1:
            self.ok()
        else:
            head = f"Date: Tue, 03 Nov 2026 10:00:00 GMT\r\nRetry-After: {self.server.retry_after}\r\nContent-Length: 0"
            self.raw(f"HTTP/1.1 429 Too Many Requests\r\n{head}\r\n\r\n".encode())

    def utf8_location(self) -> None:
        self.raw("HTTP/1.1 302 Found\r\nLocation: /ok?süß\r\nContent-Length: 0\r\n\r\n".encode())

    def split_location(self) -> None:
        self.raw(b"HTTP/1.1 302 Found\r\nLocation: /ok%0d%0aX-Evil:%201\rX-Evil: 2\r\nContent-Length: 0\r\n\r\n")

    def gzip_bomb(self) -> None:
        self.give(200, zlib.compress(bytes(20_000_000), 9, 31), Content_Encoding="gzip", Content_Type="image/jpeg")

    def hundred_megabytes_of_head(self) -> None:
        self.raw(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            self.wfile.write(b"".join(b"X-%04d: %s\r\n" % (line, b"y" * 990) for line in range(1000)))

    def nofollow(self) -> None:
        self.give(200, jpeg(), X_Robots_Tag="nofollow")

    def loop(self) -> None:
        self.give(302, b"", Location="/loop")

    def no_location(self) -> None:
        self.give(302, b"")


class Trap(socketserver.ThreadingTCPServer):
    """A listener that nobody may reach; it counts who does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.hits = 0

    def process_request(self, request: object, client_address: object) -> None:
        self.hits += 1
        self.shutdown_request(request)  # type: ignore[arg-type]

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    for _ in _served(server):
        yield server
        server.over.set()


@pytest.fixture
def trap() -> Iterator[Trap]:
    server = Trap()
    for _ in _served(server):
        yield server


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes a socket fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def make_fetch(web: Web) -> Iterator[Callable[..., GuardedFetch]]:
    """A guarded fetch that reaches `web` as web.test and *.web.test, with short limits; keywords change the policy."""
    made: list[GuardedFetch] = []

    def make(*, lookup: object = None, tls: object = None, blocklists: object = None, **changes: object) -> GuardedFetch:
        policy: dict[str, object] = {
            "connect_to": {HOST: web.place, f"*.{HOST}": web.place},
            "allow_hosts": [],
            "max_bytes": 100_000,
            "deadline_s": 0.5,
            "retries": 1,
            "per_host": 8,
            "max_redirects": 3,
            "respect_robots_txt": False,
            "respect_x_robots_tag": frozenset({"noai", "noimageai", "noindex", "noimageindex"}),
            "respect_tdm_reservation": True,
            "user_agent": "capfilt/0.1 (+https://example.org)",
        }
        chosen = FetchPolicy(**{**policy, **changes})  # type: ignore[arg-type]
        fetch = GuardedFetch(chosen, blocklists, lookup=lookup, tls=tls)  # type: ignore[arg-type]
        made.append(fetch)
        return fetch

    yield make
    for fetch in made:
        fetch.close()
