"""The small web over HTTP on loopback: `MiniwebServer` starts it in a process of its own and stops it again.

Serves what `build` wrote; what an address answers depends on its Host header and path alone, so a restart changes nothing
but the ports. Knows nothing about the pipeline that fetches from it.
"""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from capfilt.config.miniweb import MiniwebConfig
from capfilt.errors import CapfiltError
from capfilt.miniweb import serving
from capfilt.miniweb.build import build

STOP_S = 3.0  # then the process is killed


class MiniwebServer:
    """A context manager; building the web where it is missing, serving it while it is entered.

    The process ends with its parent, however that ends. Start and stop may be repeated; the ports change.
    """

    def __init__(self, config: MiniwebConfig, folder: Path, seed: int) -> None:
        self.config = config
        self.folder = folder
        self.seed = seed
        self._process: subprocess.Popen[str] | None = None
        self._ports: dict[str, int] = {}
        self._hits_before = 0  # of the processes that have ended

    def start(self) -> None:
        """Builds the web if need be and returns once it answers.

        Raises:
            CapfiltError: If the process ends instead of answering.
        """
        if self._process is not None:
            return
        build(self.config, self.folder, seed=self.seed)
        command = [sys.executable, "-P", serving.__file__, str(self.folder), *self.config.hosts]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._ports = self._answer()

    def stop(self) -> None:
        """Ends the process; the count of refused hits stays readable."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            with suppress(OSError, CapfiltError):  # it may end while we ask
                self._hits_before = self.refused_hits
        self._process = None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, the one address under which all hosts of the small web answer."""
        return f"127.0.0.1:{self._port('port')}"

    @property
    def refused_address(self) -> str:
        """Where `redirect_refused` leads; whoever guards the fetch never connects to it."""
        return f"127.0.0.1:{self._port('refused_port')}"

    @property
    def refused_hits(self) -> int:
        """Connections that have reached the refused address since the first start; 0 where fetches are guarded."""
        if self._process is None:
            return self._hits_before
        assert self._process.stdin is not None
        self._process.stdin.write("hits\n")
        return self._hits_before + self._answer()["hits"]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _port(self, name: str) -> int:
        if self._process is None:
            raise CapfiltError("expected the small web to be running; found it stopped; enter it with `with` or call start()")
        return self._ports[name]

    def _answer(self) -> dict[str, int]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._process = None
            raise CapfiltError(
                f"expected the small web's process to answer; found that it ended with code {code}; "
                f"remove {self.folder} to have the web built anew, then run the same command again"
            )
        answer: dict[str, int] = json.loads(line)
        return answer
