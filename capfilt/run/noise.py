"""Keeps what other software prints to file descriptor 2 away from the user's terminal, in events/ray.log.

Knows nothing about who prints. `sys.stderr` keeps the terminal.
"""

import os
import sys
import tempfile

from capfilt.run import files


class Noise:
    """While Ray is up, what this process' C++ parts and child processes print to file descriptor 2 goes to events/ray.log.

    `sys.stderr` keeps the terminal: it gets a descriptor of its own.
    """

    def __init__(self, output: str) -> None:
        self._path = None if files.is_remote(output) else files.local(output) / "events" / "ray.log"
        self._terminal: int | None = None
        self._before = sys.stderr

    def put_aside(self) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") if self._path is not None else tempfile.TemporaryFile() as log:
            self._before = sys.stderr
            self._terminal = os.dup(2)
            try:
                is_descriptor_2 = sys.stderr.fileno() == 2
            except (AttributeError, OSError, ValueError):  # a notebook's or a test's own stream
                is_descriptor_2 = False
            if is_descriptor_2:
                sys.stderr.flush()
                sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
            os.dup2(log.fileno(), 2)

    def bring_back(self) -> None:
        if self._terminal is not None:
            os.dup2(self._terminal, 2)
            os.close(self._terminal)
            self._terminal = None
            sys.stderr = self._before
