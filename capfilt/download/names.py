"""Host names to IP addresses, asked for within a deadline and remembered for a minute.

A remembered answer saves a thread and a question per connection, and nails a name down for that time. What the addresses are good
for is judged elsewhere (`addresses`), at every use.
"""

import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from capfilt.download.outcome import FetchError

Lookup = Callable[[str, int], list[str]]

_REMEMBER_S = 60.0
_NAMES = 20_000
_AT_ONCE = 256  # a resolver that hangs holds its thread long after our deadline; there are never more than so many of them


class Names:
    """Answers of `lookup`, shared by all threads. "No such name" is remembered too, a resolver's own trouble is not."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(_AT_ONCE)
        self._known: OrderedDict[tuple[str, int], tuple[float, list[str]]] = OrderedDict()

    def addresses(self, host: str, port: int, timeout_s: float) -> list[str]:
        """At least one address, in the resolver's order.

        Raises:
            FetchError: `dns_failed` or `timeout`.
        """
        key = (host, port)
        with self._lock:
            expires, found = self._known.get(key, (0.0, []))
        if time.monotonic() >= expires:
            found = self._asked(host, port, timeout_s)
            with self._lock:
                self._known[key] = (time.monotonic() + _REMEMBER_S, found)
                self._known.move_to_end(key)
                if len(self._known) > _NAMES:
                    self._known.popitem(last=False)
        if not found:
            raise FetchError("dns_failed")
        return found

    def _asked(self, host: str, port: int, timeout_s: float) -> list[str]:
        """The answer, empty where there is no such name; in a thread of its own, as getaddrinfo knows no timeout."""
        answer: list[list[str] | BaseException] = []
        timeout_s = max(0.0, timeout_s)
        end = time.monotonic() + timeout_s

        def work() -> None:
            try:
                answer.append(self._lookup(host, port))
            except BaseException as error:  # handed to the waiting thread
                answer.append(error)
            finally:
                self._slots.release()

        if not self._slots.acquire(timeout=timeout_s):
            raise FetchError("timeout", may_get_better=True)
        thread = threading.Thread(target=work, daemon=True, name="capfilt-lookup")
        thread.start()
        thread.join(max(0.0, end - time.monotonic()))
        if not answer:
            raise FetchError("timeout", may_get_better=True)
        found = answer[0]
        if isinstance(found, FetchError) and found.code == "dns_failed" and not found.may_get_better:
            return []
        if isinstance(found, BaseException):
            raise found
        return found


def system_lookup(host: str, port: int) -> list[str]:
    """The operating system's answer, in its order, without repetitions.

    Raises:
        FetchError: `dns_failed`; another attempt makes sense only where the resolver says so.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise FetchError("dns_failed", error.errno == socket.EAI_AGAIN) from None
    except (OSError, UnicodeError):
        raise FetchError("dns_failed") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
