"""How long one URL may take, and how many exchanges one host gets at once. Knows nothing of HTTP."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from capfilt.download.outcome import FetchError


class Deadline:
    """Seconds left for one URL. Waiting for one's turn at a host does not count: it is our queue, not the host's slowness."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, more than 0.

        Raises:
            FetchError: `timeout`, where nothing is left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise FetchError("timeout")
        return left

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self._end += time.monotonic() - start


class HostSlots:
    """At most `per_host` exchanges at once with one host; a host that nobody waits for takes no memory."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._lock = threading.Lock()
        self._hosts: dict[str, tuple[threading.Semaphore, list[int]]] = {}

    @contextmanager
    def hold(self, host: str, deadline: Deadline) -> Iterator[None]:
        with self._lock:
            semaphore, users = self._hosts.setdefault(host, (threading.Semaphore(self._per_host), [0]))
            users[0] += 1
        try:
            with deadline.paused():
                semaphore.acquire()
            try:
                yield
            finally:
                semaphore.release()
        finally:
            with self._lock:
                users[0] -= 1
                if not users[0]:
                    del self._hosts[host]
