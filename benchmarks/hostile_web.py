"""The process that answers for the hostile web: `python benchmarks/hostile_web.py`; each path plays the trick it is named after.

Prints its ports as one JSON line; answers every line on stdin with the counts of what reached its listeners; ends with stdin.
Listens on loopback only. Two listeners are traps, on IPv4 and IPv6: nobody may reach them.
"""

import asyncio
import contextlib
import io
import json
import os
import struct
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Callable

import numpy as np
from PIL import Image

OK = "HTTP/1.1 200 OK"
SLOW_S = 0.1
FOR_EVER = 10_000_000

Writer = asyncio.StreamWriter


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def picture(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width: int, height: int, *extra: bytes, rows: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def bodies() -> dict[str, bytes]:
    """What the tricks of content send, by trick."""
    plain = saved(picture(), "JPEG", quality=90)
    progressive = saved(picture(640, 480), "JPEG", quality=90, progressive=True)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    bomb = zlib.compress(bytes(100_000_000), 9)
    small = zlib.compress(bytes(65) * 64, 9)
    frames = [picture(64, 64, seed) for seed in range(40)]
    return {
        "ok": plain,
        "png": saved(picture(), "PNG"),
        "webp": saved(picture(), "WEBP"),
        "grey": saved(picture().convert("L"), "JPEG"),
        "grey16": saved(Image.fromarray(np.arange(128 * 128, dtype=np.uint16).reshape(128, 128) * 4), "PNG"),
        "palette": saved(picture().convert("P"), "PNG", transparency=3),
        "cmyk": saved(picture().convert("CMYK"), "JPEG"),
        "animated": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "rotated": saved(picture(), "JPEG", exif=rotated.tobytes()),
        "huge_icc": saved(picture(), "JPEG", icc_profile=bytes(1_500_000)),
        "icc_bomb": png_of(64, 64, png_chunk(b"iCCP", b"a\0\0" + bomb), rows=small),
        "text_bomb": png_of(64, 64, png_chunk(b"zTXt", b"a\0\0" + bomb), rows=small),
        "data_bomb": png_of(64, 64, rows=bomb),
        "pixel_bomb": png_of(60_000, 60_000, rows=zlib.compress(bytes(240_004), 9)),
        "gif_bomb": b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
        "truncated_jpeg": plain[: len(plain) // 2],
        "truncated_progressive": progressive[: len(progressive) // 3],
        "head_only": plain[:20],
        "empty": b"",
        "html": b"<!doctype html><html><body>The picture has moved.</body></html>",
        "text": b"This is not the picture you are looking for.\n" * 40,
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1/x"/></svg>',
        "zip": b"PK\x03\x04" + os.urandom(500),
        "gzip_file": b"\x1f\x8b" + os.urandom(500),
        "pdf": b"%PDF-1.7\n" + os.urandom(500),
        "postscript": b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file\n",
        "tiff": saved(picture(64, 64), "TIFF"),
        "noise": os.urandom(5000),
        "bad_picture": saved(picture(seed=666), "JPEG", quality=90),  # stands on the blocklist
    }


HEADERS = {
    "noai": "X-Robots-Tag: noai",
    "noai_for_us": "X-Robots-Tag: capfilt: noimageai",
    "noai_for_others": "X-Robots-Tag: otherbot: noai, noindex",
    "noindex_none": "X-Robots-Tag: none",
    "reserved": "tdm-reservation: 1",
    "gzip_bomb": "Content-Encoding: gzip",
    "brotli": "Content-Encoding: br",
    "rich_header": "Set-Cookie: " + "c" * 3000,
}
STATUSES = {"not_found": 404, "gone": 410, "forbidden": 403, "teapot": 418, "server_error": 500, "busy": 503, "not_modified": 304}


class Web:
    """Counts by path's first word what was asked for; `trap_hits` who came where nobody may."""

    def __init__(self) -> None:
        self.bodies = bodies()
        self.gzip_bomb = zlib.compress(bytes(100_000_000), 9, 31)
        self.asked: Counter[str] = Counter()
        self.trap_hits = 0
        self.once: set[str] = set()
        self.ports: dict[str, int] = {}

    # ── robots.txt, by host ─────────────────────────────────────────────────────────────────────────────────────

    async def robots(self, writer: Writer, host: str) -> bool:
        kind = host.partition("-")[0]
        if kind == "denies":
            return send(writer, 200, b"User-agent: *\nDisallow: /\n")
        if kind == "deniesjpg":
            return send(writer, 200, b"User-agent: *\nDisallow: /\nAllow: /a/\nUser-agent: capfilt\nDisallow: /*.jpg$\n")
        if kind == "huge":
            return send(writer, 200, b"User-agent: *\n" + b"Disallow: /*a*b*c*d*e*f*g*h*\n" * 40_000)
        if kind == "fails":
            return send(writer, 500, b"")
        if kind == "loops":
            return send(writer, 302, b"", "Location: /robots.txt")
        if kind == "leads":
            return send(writer, 302, b"", f"Location: http://127.0.0.1:{self.ports['trap']}/robots.txt")
        if kind == "drips":
            return await self.drip(writer, b"User-agent: *\n")
        if kind == "endless":
            return await self.flood(writer, f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"#" * 4096 + b"\r\n")
        return send(writer, 404, b"")

    # ── tricks; each returns whether the connection may live on ─────────────────────────────────────────────────

    async def play(self, writer: Writer, host: str, path: str) -> bool:
        if path == "/robots.txt":
            return await self.robots(writer, host)
        trick, _, rest = path.lstrip("/").partition("/")
        self.asked[trick] += 1
        if trick in self.bodies:
            return send(writer, 200, self.bodies[trick])
        if trick == "gzip_bomb":
            return send(writer, 200, self.gzip_bomb, HEADERS[trick])
        if trick in HEADERS:
            return send(writer, 200, self.bodies["ok"], HEADERS[trick])
        if trick in STATUSES:
            return send(writer, STATUSES[trick], b"<h1>no</h1>")
        if trick == "to":
            return send(writer, 302, b"", "Location: " + bytes.fromhex(rest.partition("/")[0]).decode())
        played: Callable[[Writer, str], object] | None = getattr(self, f"play_{trick}", None)
        if played is None:
            return send(writer, 404, b"")
        answer = played(writer, path)
        return bool(await answer) if asyncio.iscoroutine(answer) else bool(answer)

    def play_busy_once(self, writer: Writer, path: str) -> bool:
        if path in self.once:
            return send(writer, 200, self.bodies["ok"])
        self.once.add(path)
        return send(writer, 503, b"")

    def play_come_back_later(self, writer: Writer, _: str) -> bool:
        return send(writer, 429, b"", "Retry-After: 86400")

    def play_come_back_tomorrow(self, writer: Writer, _: str) -> bool:
        return send(writer, 503, b"", "Retry-After: Fri, 31 Dec 2100 23:59:59 GMT")

    def play_loop(self, writer: Writer, path: str) -> bool:
        return send(writer, 302, b"", f"Location: {path}")

    def play_new_loop(self, writer: Writer, path: str) -> bool:
        return send(writer, 307, b"", f"Location: {path}/x")

    def play_split_location(self, writer: Writer, _: str) -> bool:
        return raw(writer, b"HTTP/1.1 302 Found\r\nLocation: /ok/\rSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    def play_endless_redirect(self, writer: Writer, _: str) -> object:
        return self.flood(
            writer, "HTTP/1.1 302 Found\r\nLocation: /ok/1\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nabcd\r\n" * 500
        )

    async def play_slow(self, writer: Writer, _: str) -> bool:
        await asyncio.sleep(SLOW_S)
        return send(writer, 200, self.bodies["ok"])

    def play_chunked(self, writer: Writer, _: str) -> bool:
        body = self.bodies["ok"]
        parts = b"".join(
            f"{len(body[i : i + 500]):x}\r\n".encode() + body[i : i + 500] + b"\r\n" for i in range(0, len(body), 500)
        )
        writer.write(f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + parts + b"0\r\n\r\n")
        return True

    def play_until_close(self, writer: Writer, _: str) -> bool:
        return raw(writer, b"HTTP/1.0 200 OK\r\n\r\n" + self.bodies["ok"])

    async def play_silent(self, writer: Writer, _: str) -> bool:
        await asyncio.sleep(60)
        return False

    def play_drip_body(self, writer: Writer, _: str) -> object:
        return self.drip(writer, self.bodies["ok"])

    async def play_drip_head(self, writer: Writer, _: str) -> bool:
        raw(writer, f"{OK}\r\nX-Slow: ".encode())
        return await self.again(writer, b"a", SLOW_S)

    async def play_drip_status(self, writer: Writer, _: str) -> bool:
        return await self.again(writer, b"H", SLOW_S)

    def play_endless(self, writer: Writer, _: str) -> object:
        return self.flood(writer, f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n")

    def play_endless_extensions(self, writer: Writer, _: str) -> object:
        return self.flood(writer, f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"e" * 20_000 + b"\r\nx\r\n")

    def play_endless_trailers(self, writer: Writer, _: str) -> object:
        return self.flood(writer, f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"T: " + b"t" * 5000 + b"\r\n")

    def play_endless_until_close(self, writer: Writer, _: str) -> object:
        return self.flood(writer, "HTTP/1.0 200 OK\r\n\r\n", b"\xff" * 8192)

    def play_head_100mb(self, writer: Writer, _: str) -> object:
        return self.flood(writer, f"{OK}\r\n", b"X-Big: " + b"y" * 993 + b"\r\n", times=100_000)

    def play_line_100mb(self, writer: Writer, _: str) -> object:
        return self.flood(writer, f"{OK}\r\nX-Big: ", b"y" * 10_000, times=10_000)

    def play_many_headers(self, writer: Writer, _: str) -> bool:
        return raw(writer, f"{OK}\r\n".encode() + b"A: b\r\n" * 5000 + b"\r\n")

    def play_continues(self, writer: Writer, _: str) -> object:
        return self.flood(writer, "", b"HTTP/1.1 100 Continue\r\n\r\n" * 50)

    def play_garbage(self, writer: Writer, _: str) -> bool:
        return raw(writer, b"\x00\x01\x02 SSH-2.0 this is no HTTP\r\n\r\n")

    def play_hang_up(self, writer: Writer, _: str) -> bool:
        return False

    def play_cut_off(self, writer: Writer, _: str) -> bool:
        return raw(writer, f"{OK}\r\nContent-Length: 50000\r\n\r\n".encode() + self.bodies["ok"][:2000])

    def play_declares_10gb(self, writer: Writer, _: str) -> bool:
        return raw(writer, f"{OK}\r\nContent-Length: 10000000000\r\n\r\n".encode() + b"x" * 1000)

    def play_negative_length(self, writer: Writer, _: str) -> bool:
        return raw(writer, f"{OK}\r\nContent-Length: -5\r\n\r\n".encode() + self.bodies["ok"])

    def play_bad_chunk(self, writer: Writer, _: str) -> bool:
        return raw(writer, f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc".encode())

    def play_huge_chunk(self, writer: Writer, _: str) -> bool:
        return raw(writer, f"{OK}\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc".encode())

    def play_second_answer(self, writer: Writer, _: str) -> bool:
        send(writer, 200, self.bodies["ok"])
        return send(writer, 200, b"an answer that nobody asked for")

    # ── slowly and for ever ─────────────────────────────────────────────────────────────────────────────────────

    async def drip(self, writer: Writer, body: bytes) -> bool:
        raw(writer, f"{OK}\r\nContent-Length: 1000000\r\n\r\n".encode())
        return await self.again(writer, body[:1], SLOW_S)

    async def flood(self, writer: Writer, head: str, part: bytes, times: int = FOR_EVER) -> bool:
        raw(writer, head.encode())
        return await self.again(writer, part, 0, times)

    async def again(self, writer: Writer, part: bytes, pause_s: float, times: int = FOR_EVER) -> bool:
        for _ in range(times):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return False


def send(writer: Writer, status: int, body: bytes, header: str = "X-Nothing: 0") -> bool:
    writer.write(f"HTTP/1.1 {status} So\r\n{header}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return True


def raw(writer: Writer, data: bytes) -> bool:
    writer.write(data)
    return False


async def serve() -> None:
    web, loop, over = Web(), asyncio.get_running_loop(), asyncio.Event()

    async def converse(reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                host = next((line[5:].strip() for line in head if line.lower().startswith("host:")), "")
                if not await web.play(writer, host, head[0].split(" ")[1].partition("?")[0]):
                    break
                await writer.drain()
            await writer.drain()
        except (OSError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the other side left, which is what it should do
        finally:
            writer.close()

    async def trap(_: asyncio.StreamReader, writer: Writer) -> None:
        web.trap_hits += 1
        writer.close()

    def listen() -> None:
        for _ in sys.stdin:
            print(json.dumps({"trap_hits": web.trap_hits, "asked": web.asked}), flush=True)
        loop.call_soon_threadsafe(over.set)

    servers = [
        await asyncio.start_server(converse, "127.0.0.1", 0, backlog=4096),
        await asyncio.start_server(trap, "127.0.0.1", 0),
    ]
    web.ports = {name: server.sockets[0].getsockname()[1] for name, server in zip(("web", "trap"), servers, strict=True)}
    with contextlib.suppress(OSError):  # where there is no IPv6, its addresses are refused all the same
        servers.append(await asyncio.start_server(trap, "::1", web.ports["trap"]))
    print(json.dumps(web.ports), flush=True)
    threading.Thread(target=listen, daemon=True).start()
    await over.wait()


if __name__ == "__main__":
    asyncio.new_event_loop().run_until_complete(serve())
    os._exit(0)  # what drips for ever is worth no goodbye
