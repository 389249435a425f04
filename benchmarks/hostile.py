"""The guarded fetch against a hostile web on loopback: 10,000 addresses that play every trick we know, through the real pool job.

    python benchmarks/hostile.py                  about two minutes on two cores
    python benchmarks/hostile.py --rows 1000 --out /tmp/hostile.json

Nothing is sent beyond loopback. The resolver answers from a table; a fence around `socket.create_connection` lets connections
through to loopback, traps included, and ends every other before there is a socket, counting it. Counted: connections that reached
a trap, or were meant for an address that must be refused (0 is the only right number); status and error of every row against what
its trick may come to; seconds of a row from its turn to its outcome; the resident memory of the process.
"""

import argparse
import hashlib
import ipaddress
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # so that it runs from anywhere

from hostile_tricks import PUBLIC, Trick, names, tricks  # noqa: E402
from hostile_web import bodies  # noqa: E402

from capfilt.config.load import load_text  # noqa: E402
from capfilt.download.fetch import GuardedFetch  # noqa: E402
from capfilt.rounds import run_pipeline  # noqa: E402
from capfilt.run.progress import SilentProgress  # noqa: E402

YAML = """
version: 1
name: hostile
output: {output}
read: {{paths: ["{input}"], keep_columns: [trick], rows_per_chunk: {rows_per_chunk}}}
download:
  connect_to: {{"*.hostile.test": "127.0.0.1:{web}", "open.test": "127.0.0.1:{trap}"}}
  image_px: 128
  max_bytes: 2_000_000
  max_pixels: 10_000_000
  deadline_s: {deadline_s}
  retries: 1
  per_host: 8
  max_redirects: 5
  blocklists: {{domains: ["{lists}/domains"], urls: ["{lists}/urls"], sha256: ["{lists}/sha256"]}}
resources: {{executor: local, download: {{threads: {threads}}}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--deadline", type=float, default=2.0, help="seconds, of each URL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "hostile.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), rows=args.rows, threads=args.threads, deadline_s=args.deadline, seed=args.seed)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    show(result)
    print(f"written to {args.out}")
    raise SystemExit(0 if result["is_right"] else 1)


def measure(
    folder: Path, *, rows: int, threads: int, deadline_s: float, seed: int = 0, rows_per_chunk: int = 256
) -> dict[str, Any]:
    """The pool of `rows` hostile addresses, made in `folder`; every trick comes about equally often."""
    web = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "hostile_web.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert web.stdin is not None
    assert web.stdout is not None
    try:
        ports = json.loads(web.stdout.readline())
        played = tricks(ports["trap"])
        write_input(folder, played, rows, ports["trap"], seed)
        text = YAML.format(
            output=folder / "run", input=folder / "hostile.parquet", lists=folder, rows_per_chunk=rows_per_chunk,
            threads=threads, deadline_s=deadline_s, **ports,
        )  # fmt: skip
        import_the_decoders()
        fence, seconds, memory = Fence(), Stopwatch(), Memory()
        with resolver(names(ports["trap"])), fence.up(), seconds.running(), memory.sampling():
            start, cpu = time.monotonic(), time.process_time()
            run_pipeline(load_text(text), until="screen", progress=SilentProgress())
            wall_s, cpu_s = time.monotonic() - start, time.process_time() - cpu
        web.stdin.write("counts\n")
        web.stdin.flush()
        counts = json.loads(web.stdout.readline())
    finally:
        web.stdin.close()
        web.wait(10)
        web.stdout.close()
    by_trick, lost = outcomes(folder / "run" / "pool", rows)
    wrong = [
        f"{trick.name}: {status} {error}"
        for trick in played
        for (status, error) in by_trick[trick.name]
        if not trick.allows(status, error)
    ]
    # The public address of a name that rebinds is no refused one; nothing else may reach the fence.
    beyond = {address: count for address, count in fence.beyond.items() if address != PUBLIC}
    in_flight = threads * (4 if rows_per_chunk <= 1024 else 2)
    return {
        "what": "pool job (local executor) on a hostile web of loopback",
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load_after": round(os.getloadavg()[0], 2)},
        "settings": {"rows": rows, "tricks": len(played), "threads": threads, "deadline_s": deadline_s, "max_bytes": 2_000_000},
        "is_right": not (counts["trap_hits"] or beyond or wrong or lost),
        "connections_at_traps": counts["trap_hits"],
        "connections_meant_for_refused_addresses": beyond,
        "connections_ended_by_the_fence": {"of_a_name_that_rebinds": fence.beyond[PUBLIC]},
        "rows_without_status": lost,
        "outcomes_of_no_trick": wrong,
        "statuses": dict(sum((Counter({s: n for (s, _), n in found.items()}) for found in by_trick.values()), Counter())),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "seconds_of_a_row": seconds.summary(),
        "resident_mib": memory.summary(in_flight),
        "tricks": {
            trick.name: {
                "rows": sum(by_trick[trick.name].values()),
                "worst_s": round(seconds.worst(by_trick.urls[trick.name]), 2),
                "outcomes": {f"{s} {e}" if e else s: n for (s, e), n in sorted(by_trick[trick.name].items(), key=str)},
            }
            for trick in played
        },
    }


def write_input(folder: Path, played: Sequence[Trick], rows: int, trap: int, seed: int) -> None:
    """The URL list and the three blocklists."""
    listed = [(played[i % len(played)], i // len(played)) for i in range(rows)]
    random.Random(seed).shuffle(listed)
    table = pa.table(
        {
            "url": pa.array([trick.url(number) for trick, number in listed], pa.string()),
            "text": [f"{trick.name} {number}" for trick, number in listed],
            "trick": [trick.name for trick, _ in listed],
        }
    )
    pq.write_table(table, folder / "hostile.parquet")
    (folder / "domains").write_text("# known bad\nblocked.test\n")
    (folder / "urls").write_text(f"https://open.test:{trap}/blocked.jpg\n")
    (folder / "sha256").write_text(hashlib.sha256(bodies()["bad_picture"]).hexdigest() + "  bad.jpg\n")


def import_the_decoders() -> None:
    """So that their seconds and megabytes are not counted as a row's."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import img2dataset.downloader
    import img2dataset.resizer  # noqa: F401


class Outcomes(defaultdict[str, Counter[tuple[str, str | None]]]):
    """Rows by (status, error), by trick; `urls` are each trick's addresses."""

    def __init__(self) -> None:
        super().__init__(Counter)
        self.urls: defaultdict[str, set[str | None]] = defaultdict(set)


def outcomes(pool: Path, rows: int) -> tuple[Outcomes, int]:
    """What the committed files say, and how many rows they lack."""
    found, seen = Outcomes(), 0
    for path in sorted(pool.glob("chunk-*.parquet")):
        for row in pq.read_table(path, columns=["url", "status", "error", "upstream"]).to_pylist():
            trick = row["upstream"]["trick"]
            found[trick][row["status"], row["error"]] += 1
            found.urls[trick].add(row["url"])
            seen += 1
    return found, rows - seen


@contextmanager
def resolver(known: dict[str, list[list[str]]]) -> Iterator[None]:
    """Names from a table, and no other; no question leaves the process."""
    asked: Counter[str] = Counter()

    def answer(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        answers = known.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        asked[host] += 1
        found = answers[min(asked[host], len(answers)) - 1]
        return [(0, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    with mock.patch.object(socket, "getaddrinfo", answer):
        yield


class Fence:
    """Ends connections beyond loopback before there is a socket; `beyond` counts them by address."""

    def __init__(self) -> None:
        self.beyond: Counter[str] = Counter()

    @contextmanager
    def up(self) -> Iterator[None]:
        def connect(place: tuple[str, int], timeout: float | None = None) -> socket.socket:
            address, port = place
            ip = ipaddress.ip_address(address)
            if not ip.is_loopback:
                self.beyond[address] += 1
                raise ConnectionRefusedError
            # As socket.create_connection does it, without its getaddrinfo.
            sock = socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect((address, port))
            except BaseException:
                sock.close()
                raise
            return sock

        with mock.patch.object(socket, "create_connection", connect):
            yield


class Stopwatch:
    """Seconds from a row's turn to its outcome, by URL; with the wait for a slot at its host."""

    def __init__(self) -> None:
        self._seconds: list[tuple[str | None, float]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        fetch = GuardedFetch.__call__

        def timed(guarded: GuardedFetch, url: str | None) -> Any:
            start = time.monotonic()
            try:
                return fetch(guarded, url)
            finally:
                self._seconds.append((url, time.monotonic() - start))

        with mock.patch.object(GuardedFetch, "__call__", timed):
            yield

    def worst(self, urls: set[str | None]) -> float:
        return max((seconds for url, seconds in self._seconds if url in urls), default=0.0)

    def summary(self) -> dict[str, float]:
        ordered = sorted(seconds for _, seconds in self._seconds)
        return {f"p{share}": round(ordered[len(ordered) * share // 100], 3) for share in (50, 90, 99)} | {
            "worst": round(ordered[-1], 2)
        }


class Memory:
    """Resident memory of this process, looked at fifty times a second (Linux)."""

    def __init__(self) -> None:
        self._before = self._peak = 0

    @contextmanager
    def sampling(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.wait(0.02):
                self._peak = max(self._peak, resident())

        self._before = self._peak = resident()
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        yield
        over.set()
        thread.join()

    def summary(self, in_flight: int) -> dict[str, float]:
        grown = (self._peak - self._before) / 2**20
        return {
            "before": round(self._before / 2**20),
            "peak": round(self._peak / 2**20),
            "grown": round(grown),
            "grown_per_row_in_flight": round(grown / in_flight, 2),
        }


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def show(result: dict[str, Any]) -> None:
    for name, trick in result["tricks"].items():
        print(
            f"{name:24} {trick['rows']:5} {trick['worst_s']:7.2f} s  "
            + "; ".join(f"{k} {n}" for k, n in trick["outcomes"].items())
        )
    print(json.dumps({key: value for key, value in result.items() if key != "tricks"}, indent=1))


if __name__ == "__main__":
    main()
