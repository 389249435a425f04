"""Signals of the command: the first Ctrl-C or SIGTERM ends a run in order, the second at once.

Knows nothing about runs. Children need no word: the small web and Ray end with the process that started them.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HANDLED = (signal.SIGINT, signal.SIGTERM)
_received: list[int] = []


class Stopped(KeyboardInterrupt):
    """Raised in the main thread, wherever it is. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def received() -> int | None:
    """The first signal since `orderly` was entered. Where C++ was at work (Ray), only a bare KeyboardInterrupt arrives."""
    return _received[0] if _received else None


@contextmanager
def orderly() -> Iterator[None]:
    """While entered, SIGINT and SIGTERM raise `Stopped`; the next one ends the process with 128 + its number.

    A shell starts its background jobs with SIGINT ignored, and Python leaves that so: here it is heeded again. The handlers found
    are put back at the end. Main thread only.
    """
    _received.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        if len(_received) == 1:
            os.write(2, b"capfilt: ending in order; once more ends at once\n")
            raise Stopped(number)
        os.write(2, b"capfilt: stopped at once; the same command continues\n")
        sys.stdout.flush()
        os._exit(128 + number)

    before = {number: signal.signal(number, stop) for number in HANDLED}
    try:
        yield
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
