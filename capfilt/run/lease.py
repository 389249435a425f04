"""The lease: one driver per run. A driver that died gives it up at once on its own host, after 30 s elsewhere.

Knows nothing about the run itself.
"""

import json
import os
import socket
import threading
import time
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from capfilt.errors import LeaseError
from capfilt.run import files

BEAT_S = 5.0
EXPIRES_S = 30.0


class Lease:
    """Held while entered. The heartbeat runs in a thread, so a driver that computes for long keeps its lease.

    Raises:
        LeaseError: On entering, if another driver works on the run.
    """

    def __init__(self, folder: str, *, beat_s: float = BEAT_S, expires_s: float = EXPIRES_S) -> None:
        self._path = files.join(folder, "lease.json")
        self._beat_s, self._expires_s = beat_s, expires_s
        self._owner = {"token": uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "boot": _boot_id()}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="capfilt-lease", daemon=True)

    def __enter__(self) -> Self:
        for _ in range(3):  # between our look and our claim another driver may come or go
            holder = files.get_json(self._path)
            if holder is not None and self._is_alive(holder):
                raise LeaseError(
                    f"{self._path}: expected no other driver, found process {holder.get('pid')} on {holder.get('host')} at work "
                    "on this run. Wait for it, stop it, or write to another `output`"
                )
            if self._claim(holder):
                self._thread.start()
                return self
        raise LeaseError(f"{self._path}: expected to take the lease, found other drivers taking it. Start one driver per run")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join(self._beat_s)
        if self._is_ours(files.get_json(self._path)):
            files.remove(self._path)

    def _claim(self, holder: Any) -> bool:
        content = json.dumps(self._content()).encode()
        if files.is_remote(self._path):  # no exclusive creation there: last writer wins, the others see it
            files.put(self._path, content)
            return self._is_ours(files.get_json(self._path))
        path = files.local(self._path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if holder is not None or path.exists():
            # Rename is the claim on a dead driver's lease: of two that try, one finds the file gone.
            try:
                path.rename(path.with_name(f".lease-{self._owner['token']}"))
            except FileNotFoundError:
                return False
            path.with_name(f".lease-{self._owner['token']}").unlink()
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True

    def _content(self) -> dict[str, Any]:
        return {**self._owner, "beat": time.time()}

    def _is_ours(self, holder: Any) -> bool:
        return isinstance(holder, dict) and holder.get("token") == self._owner["token"]

    def _is_alive(self, holder: Any) -> bool:
        if not isinstance(holder, dict) or not isinstance(holder.get("beat"), int | float):
            return False
        if holder.get("host") == self._owner["host"] and isinstance(holder.get("pid"), int):
            return bool(holder.get("boot") == self._owner["boot"]) and _runs(int(holder["pid"]))
        return bool(time.time() - holder["beat"] < self._expires_s)

    def _beat(self) -> None:
        while not self._stopped.wait(self._beat_s):
            files.put_json(self._path, self._content())


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot_id() -> str:
    """Differs after a reboot and between machines that share a host name, such as containers."""
    data = files.get("/proc/sys/kernel/random/boot_id")
    return data.decode().strip() if data else ""
