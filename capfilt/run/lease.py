"""The lease: one driver per run. A driver that died gives it up at once where it ran, after 30 s elsewhere.

On a local disk creation is exclusive. An object store may let two drivers that start in the same second both believe that they
hold it: at its next beat the one whose lease was written over sees that, and stops. Knows nothing about the run itself.
"""

import json
import os
import signal
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

    A driver that slept so long that another took the run over is interrupted at its next beat (`is_lost`).

    Raises:
        LeaseError: On entering, if another driver works on the run.
        OutputError: On entering, if the folder cannot be written.
    """

    def __init__(self, folder: str, *, beat_s: float = BEAT_S, expires_s: float = EXPIRES_S) -> None:
        self._path = files.join(folder, "lease.json")
        self._beat_s, self._expires_s = beat_s, expires_s
        self._place = {"host": socket.gethostname(), "boot": _boot_id(), "processes": _process_space()}
        self._owner = {"token": uuid4().hex, **self._place, "pid": os.getpid(), "started": _started(os.getpid())}
        self._stopped = threading.Event()
        self.is_lost = False
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

    def lost_error(self) -> LeaseError:
        return LeaseError(
            f"{self._path}: expected this driver's lease, found another driver's. This one was still for more than "
            f"{self._expires_s:.0f} s, or both began together: it has stopped, the other goes on"
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join(self._expires_s)  # a beat that is on its way would bring the lease back
        if self._is_ours(files.get_json(self._path)):
            files.remove(self._path)

    def _claim(self, holder: Any) -> bool:
        content = json.dumps(self._content()).encode()
        if files.is_remote(self._path):
            if holder is not None:
                files.remove(self._path)
            return files.create(self._path, content) and self._is_ours(files.get_json(self._path))
        with files.writing(self._path):
            path = files.local(self._path)
            if holder is not None or path.exists():
                # Rename is the claim on a dead driver's lease: of two that try, one finds the file gone.
                aside = path.with_name(f".lease-{self._owner['token']}")
                try:
                    path.rename(aside)
                except FileNotFoundError:
                    return False
                aside.unlink()
        return files.create(self._path, content)

    def _content(self) -> dict[str, Any]:
        return {**self._owner, "beat": time.time()}

    def _is_ours(self, holder: Any) -> bool:
        return isinstance(holder, dict) and holder.get("token") == self._owner["token"]

    def _is_alive(self, holder: Any) -> bool:
        if not isinstance(holder, dict) or not isinstance(holder.get("beat"), int | float):
            return False
        if all(holder.get(name) == mine for name, mine in self._place.items()) and isinstance(holder.get("pid"), int):
            return _runs(holder["pid"], holder.get("started"))
        if 0 <= time.time() - holder["beat"] < self._expires_s:
            return True
        # Its clock may be wrong: dead is whose heart is still now.
        time.sleep(2 * self._beat_s)
        now = files.get_json(self._path)
        return bool(now is not None and now != holder)

    def _beat(self) -> None:
        while not self._stopped.wait(self._beat_s):
            try:
                holder = files.get_json(self._path)
                if holder is not None and not self._is_ours(holder):
                    self.is_lost = True
                    _interrupt()
                    return
                files.put_json(self._path, self._content())
            except Exception:  # a full disk stops the run where it writes results, not here; stores have errors of their own
                continue


def _interrupt() -> None:
    """As Ctrl-C does: also out of a sleep or a wait. A program that put Ctrl-C aside is not killed for it."""
    main = threading.main_thread().ident
    if main is not None and callable(signal.getsignal(signal.SIGINT)):
        signal.pthread_kill(main, signal.SIGINT)


def _runs(pid: int, started: str | None) -> bool:
    """Whether that very process is there; its number alone may be another's by now, in a restarted container above all."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return started is None or _started(pid) in (started, None)


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks since the boot; None where there is no /proc."""
    data = files.get(f"/proc/{pid}/stat")
    return data.decode(errors="replace").rpartition(")")[2].split()[19] if data else None


def _boot_id() -> str:
    """Differs after a reboot and between machines that share a host name."""
    data = files.get("/proc/sys/kernel/random/boot_id")
    return data.decode().strip() if data else ""


def _process_space() -> str:
    """Differs between containers, in which numbers of processes mean other processes."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
