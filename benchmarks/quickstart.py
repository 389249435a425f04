"""The quickstart once, on an idle machine: seconds by phase, and the peak memory of the driver and of its workers.

    python benchmarks/quickstart.py [--set path=value …]

Memory is the resident set, read from /proc every half second (Linux): the largest of each process, not their sum, since workers
share pages. Writes benchmarks/results/quickstart.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "runs" / "bench-quickstart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], help="as for `capfilt run`")
    args = parser.parse_args()
    command = [sys.executable, "-m", "capfilt", "run", "pipelines/quickstart.yaml", "--fresh", "--set", f"output={OUTPUT}"]
    for setting in args.set:
        command += ["--set", setting]
    load = os.getloadavg()[0]
    start = time.monotonic()
    run = subprocess.Popen(command, cwd=ROOT)
    peaks: dict[str, int] = {}
    while run.poll() is None:
        for name, kib in resident(run.pid):
            peaks[name] = max(peaks.get(name, 0), kib)
        time.sleep(0.5)
    seconds = time.monotonic() - start
    if run.returncode:
        raise SystemExit(f"the run ended with exit code {run.returncode}")
    phases = [json.loads(line) for line in (OUTPUT / "events" / "phases.jsonl").read_text().splitlines()]
    result = {
        "what": "capfilt run pipelines/quickstart.yaml, whole process",
        "set": args.set,
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        "seconds": round(seconds, 1),
        "phases_s": {phase["phase"]: round(phase["seconds"], 1) for phase in phases},
        "peak_resident_mib": {name: round(kib / 1024) for name, kib in sorted(peaks.items(), key=lambda pair: -pair[1])},
        "primary": [json.loads((OUTPUT / f"round-{n}" / "metrics.json").read_text())["primary"] for n in (0, 1)],
    }
    (ROOT / "benchmarks" / "results" / "quickstart.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def resident(driver: int) -> list[tuple[str, int]]:
    """(role, KiB) of the driver and of every process below it."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    sizes: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            command = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except (OSError, ValueError):
            continue  # it ended meanwhile
        pid = int(folder.name)
        parents[pid] = int(status["PPid"])
        sizes[pid] = int(status.get("VmRSS", "0 kB").split()[0])
        names[pid] = role(command)
    return [("driver" if pid == driver else names[pid], size) for pid, size in sizes.items() if below(pid, driver, parents)]


def role(command: str) -> str:
    for actor in ("PoolActor", "CaptionActor", "FilterActor", "FusedActor"):
        if actor in command:
            return actor
    return "ray" if "ray" in command.lower() or "gcs_server" in command else "other"


def below(pid: int, driver: int, parents: dict[int, int]) -> bool:
    while pid not in (driver, 0, 1):
        pid = parents.get(pid, 0)
    return pid == driver


if __name__ == "__main__":
    main()
