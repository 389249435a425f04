"""The process that answers for the small web: `python serving.py FOLDER HOST...`.

Prints its ports as one JSON line, answers every line on stdin with the count of refused hits, and ends when stdin or its
parent does. Imports nothing of capfilt, so that it starts fast.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pyarrow.parquet as pq

SLOW_S = 0.2
DRIP_S = 0.2
DRIP_LENGTH = 1_000_000  # bytes announced by a dripping address
HEAD_LIMIT = 16_384  # bytes of a request's head
PARENT_S = 0.5  # between two looks whether the parent lives

REASONS = {200: "OK", 302: "Found", 404: "Not Found", 405: "Method Not Allowed", 410: "Gone", 421: "Misdirected Request"}
REASONS |= {503: "Service Unavailable"}

Answer = tuple[int, dict[str, str], bytes]


class Web:
    """The answers, by host and path. Holds every body in memory (32 MB for 4,000 pictures)."""

    def __init__(self, folder: Path, hosts: list[str]) -> None:
        table = pq.read_table(folder / "pictures.parquet")
        columns = (table.column(name).to_pylist() for name in ("url", "url_kind", "body"))
        self.pages: dict[str, tuple[str, bytes | None]] = {url: (kind, body) for url, kind, body in zip(*columns, strict=True)}
        self.hosts = frozenset(hosts)
        self.closed_host = hosts[-1]
        self.refused_port = 0
        self.refused_hits = 0
        self._failed_once: set[str] = set()

    def robots_txt(self, host: str) -> bytes:
        return b"User-agent: *\nDisallow: /\n" if host == self.closed_host else b"User-agent: *\nAllow: /\n"

    def kind(self, host: str, path: str) -> str | None:
        page = self.pages.get(f"http://{host}{path}")
        return None if page is None else page[0]

    def answer(self, host: str, path: str) -> Answer:
        """Status, headers and body of a GET."""
        if host not in self.hosts:
            return 421, {"Content-Type": "text/plain"}, b"no such host\n"
        if path == "/robots.txt":
            return 200, {"Content-Type": "text/plain"}, self.robots_txt(host)
        moved = path.startswith("/moved/")
        url = f"http://{host}/p/{path.removeprefix('/moved/')}" if moved else f"http://{host}{path}"
        kind, body = self.pages.get(url, ("not_found", None))
        if kind == "redirect_ok" and not moved:
            return 302, {"Location": f"http://{host}/moved/{path.removeprefix('/p/')}"}, b""
        if kind == "redirect_refused":
            return 302, {"Location": f"http://127.0.0.1:{self.refused_port}/private.jpg"}, b""
        if kind == "gone":
            return 410, {"Content-Type": "text/html"}, b"<h1>Gone</h1>"
        if kind == "server_error_once" and url not in self._failed_once:
            self._failed_once.add(url)
            return 503, {"Content-Type": "text/plain"}, b"try again\n"
        if body is None:
            return 404, {"Content-Type": "text/html"}, b"<h1>Not Found</h1>"
        headers = {"Content-Type": "text/html" if kind == "html" else "image/png" if path.endswith(".png") else "image/jpeg"}
        if kind == "opted_out_header":
            headers["X-Robots-Tag"] = "noai"
        return 200, headers, body


async def converse(web: Web, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: requests one after the other until either side closes it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, version = head[0].split(" ", 2)
            lines = (line.partition(":") for line in head[1:] if line)
            headers = {name.strip().lower(): value.strip() for name, _, value in lines}
            host = headers.get("host", "").rsplit(":", 1)[0].lower()
            path = path.split("?", 1)[0]
            keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
            if method not in ("GET", "HEAD"):
                send(writer, (405, {}, b""), keep=False, with_body=True)
                break
            kind = web.kind(host, path) if host in web.hosts else None
            if kind == "dripping" and method == "GET":
                await drip(writer, web.answer(host, path)[2])
                break
            if kind == "slow":
                await asyncio.sleep(SLOW_S)
            send(writer, web.answer(host, path), keep=keep, with_body=method == "GET")
            await writer.drain()
            if not keep:
                break
    except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # the other side left, or does not speak HTTP
    finally:
        writer.close()


def send(writer: asyncio.StreamWriter, answer: Answer, *, keep: bool, with_body: bool) -> None:
    status, headers, body = answer
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(body)}", f"Connection: {'keep-alive' if keep else 'close'}", "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + (body if with_body else b""))


async def drip(writer: asyncio.StreamWriter, body: bytes) -> None:
    """Promises a picture and sends a byte of it now and then, until the other side gives up."""
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {DRIP_LENGTH}\r\n\r\n".encode())
    for at in range(DRIP_LENGTH):
        writer.write(body[at % len(body) :][:1])
        await writer.drain()
        await asyncio.sleep(DRIP_S)


async def serve(folder: Path, hosts: list[str]) -> None:
    web = Web(folder, hosts)
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        web.refused_hits += 1
        writer.close()

    def listen() -> None:
        for _ in sys.stdin:
            print(json.dumps({"hits": web.refused_hits}), flush=True)
        loop.call_soon_threadsafe(done.set)

    server = await asyncio.start_server(lambda r, w: converse(web, r, w), "127.0.0.1", 0, limit=HEAD_LIMIT, backlog=1024)
    refused = await asyncio.start_server(refuse, "127.0.0.1", 0)
    web.refused_port = refused.sockets[0].getsockname()[1]
    print(json.dumps({"port": server.sockets[0].getsockname()[1], "refused_port": web.refused_port}), flush=True)
    Thread(target=listen, daemon=True).start()
    parent = os.getppid()
    while not done.is_set() and os.getppid() == parent:  # a process forked by the parent may keep stdin open after it
        try:
            await asyncio.wait_for(done.wait(), PARENT_S)
        except TimeoutError:
            continue


def main(arguments: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent still needs its web to finish
    # Not asyncio.run, which cancels what is open at the end: Python 3.11 prints a traceback for each connection it cancels.
    with suppress(BrokenPipeError):
        asyncio.new_event_loop().run_until_complete(serve(Path(arguments[0]), arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # open connections drip on for ever; nothing here is worth a goodbye
