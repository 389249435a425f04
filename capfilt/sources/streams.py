"""The bytes of an input file, decompressed, from the beginning or a range of them. Knows nothing of what they mean.

A range of a plain file is one seek. A compressed file cannot be entered in the middle: each process keeps it open and reads on,
so that all its chunks together cost one pass (chunks are read in about their order; the last ones passed are kept at hand).
"""

import functools
import gzip
import io
import threading
from typing import IO, Any

import fsspec
import pyarrow as pa

BLOCK_BYTES = 1 << 20
STEP_BYTES = 1 << 16  # of decompressing; what of zstd is lost where a file breaks off
WINDOW_BYTES = 32 << 20  # of a compressed file, what was passed over last
OPEN_FILES = 4  # compressed ones a process keeps open
COMPRESSIONS = (".gz", ".tgz", ".zst")


def is_compressed(path: str) -> bool:
    return path.lower().endswith(COMPRESSIONS)


def open_stream(path: str) -> IO[bytes]:
    """The file from its beginning, decompressed; to be used in `with`. A compressed one can only be read forwards."""
    raw = fsspec.open(path, "rb").open()
    if path.lower().endswith((".gz", ".tgz")):
        return io.BufferedReader(_Decompressed(gzip.GzipFile(fileobj=raw, mode="rb"), raw), BLOCK_BYTES)
    if path.lower().endswith(".zst"):
        return io.BufferedReader(_Decompressed(pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd"), raw), BLOCK_BYTES)
    stream: IO[bytes] = raw
    return stream


class _Decompressed(io.RawIOBase):
    """Gives out what is there before it meets the place where the file breaks off; closes the file below with it."""

    def __init__(self, stream: Any, below: Any) -> None:
        self._stream, self._below = stream, below

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read1(min(len(buffer), STEP_BYTES))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._below.close()
        super().close()


def read_range(path: str, etag: str, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`, counted before compression; fewer where the file ends. `etag` tells versions of it apart."""
    if is_compressed(path):
        return _forward(path, etag).read(offset, size)
    with fsspec.open(path, "rb") as stream:
        stream.seek(offset)
        data: bytes = stream.read(size)
        return data


class _Forward:
    """A stream that only goes forwards, behind a window of what it passed last. Safe to use from several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stream: Any = None
        self._window = bytearray()
        self._start = 0  # of the window
        self._limit = WINDOW_BYTES

    def read(self, offset: int, size: int) -> bytes:
        with self._lock:
            if self._stream is None or offset < self._start:
                if self._stream is not None:
                    self._stream.close()
                self._stream, self._start = open_stream(self._path), 0
                self._window.clear()
            self._limit = max(self._limit, 4 * size)  # as many chunks as may be at work at once
            while self._start + len(self._window) < offset + size:
                block = self._stream.read1(BLOCK_BYTES)  # `read` would meet the end of a file that breaks off
                if not block:
                    break
                self._window += block
                keep_from = min(offset, self._start + len(self._window) - self._limit)
                if keep_from > self._start:
                    del self._window[: keep_from - self._start]
                    self._start = keep_from
            at = offset - self._start
            return bytes(self._window[at : at + size])


@functools.lru_cache(maxsize=OPEN_FILES)
def _forward(path: str, etag: str) -> _Forward:
    return _Forward(path)
