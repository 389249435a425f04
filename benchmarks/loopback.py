"""A picture server on loopback, in a process of its own, for benchmarks that download: answers each path of a Parquet file.

Knows nothing of what fetches from it. Unknown paths (robots.txt among them) are 404.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Loopback:
    """A context manager that serves the file's rows (`path`: as in the URL, without host; `image`: the bytes of the answer)."""

    def __init__(self, pictures: Path) -> None:
        self._pictures = pictures
        self._process: subprocess.Popen[str] | None = None
        self.address = ""
        """127.0.0.1:port while it is entered; answers under any host name."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, str(self._pictures)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the picture server ended with exit code {self._process.wait()}: {self._pictures}")
        self.address = f"127.0.0.1:{json.loads(line)['port']}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()  # it ends where its input ends, and so with its parent
        self._process.wait()


async def serve(pictures: str) -> None:
    """HTTP/1.1 from memory, keep-alive for whoever wants it, until the input ends."""
    import pyarrow.parquet as pq

    table = pq.read_table(pictures, columns=["path", "image"])
    body_of = {path.encode(): image for path, image in zip(table["path"].to_pylist(), table["image"].to_pylist(), strict=True)}

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.waiting = transport, b""

        def data_received(self, data: bytes) -> None:
            self.waiting += data
            while b"\r\n\r\n" in self.waiting:
                head, _, self.waiting = self.waiting.partition(b"\r\n\r\n")
                body = body_of.get(head.split(b" ", 2)[1])
                closes = b"connection: close" in head.lower()
                lines = [
                    "HTTP/1.1 200 OK" if body is not None else "HTTP/1.1 404 Not Found",
                    f"Content-Length: {len(body or b'')}",
                    "Content-Type: image/jpeg",
                    f"Connection: {'close' if closes else 'keep-alive'}",
                ]
                self.transport.writelines(["\r\n".join(lines).encode() + b"\r\n\r\n", body or b""])
                if closes:
                    self.transport.close()

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
