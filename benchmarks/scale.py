"""A million rows through the whole line on one machine: rows per second, memory over time, what index, plan and ledger cost.

    python benchmarks/scale.py                     1,000,000 rows; needs about 10 GB of disk
    python benchmarks/scale.py --rows 20000        to see it work

Pictures are 32 px of noise, in Parquet; captioner and filter do next to nothing, so what is measured is everything around models:
read, decode, screen, commit, Ray, dedup, select, write. Two of a hundred rows repeat another's picture. Writes
benchmarks/results/scale.json.
"""

import argparse
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from quickstart import below, role

from capfilt.captioners.base import Caption
from capfilt.filters.base import Scores

ROOT = Path(__file__).resolve().parents[1]
ROWS_PER_FILE = 125_000
COLOURS = ("grey", "dark", "bright", "red", "green", "blue")

PIPELINE = """
version: 1
name: scale
output: {output}
read: {{kind: parquet_images, paths: ["{inputs}/*.parquet"], columns: {{image: image, text: text}}, rows_per_chunk: {chunk}}}
download: {{image_px: 32}}
screen: {{image: [{{kind: min_side, px: 16}}], text: [{{kind: not_empty}}]}}
caption: {{captioner: {{kind: custom, target: "scale:TrivialCaptioner"}}, batch_size: 256}}
filter: {{filter: {{kind: custom, target: "scale:TrivialFilter"}}, batch_size: 256}}
dedup: {{min_cosine: 0.99}}
select: {{policy: both, min_itm: 0.5}}
write: {{formats: [parquet, webdataset], rows_per_shard: 10_000}}
resources: {{executor: {executor}, ray: {{address: local, logical_cpus: 4}}}}
"""


class TrivialCaptioner:
    """Names the strongest colour of the mean pixel."""

    name = "trivial"

    def caption(self, images: Sequence[Image.Image], *, seeds: Sequence[Sequence[int]]) -> list[list[Caption]]:
        found = []
        for image, row in zip(images, seeds, strict=True):
            mean = np.asarray(image.resize((1, 1), Image.Resampling.BOX), dtype=np.int64)[0, 0]
            word = COLOURS[3 + int(mean.argmax())]
            found.append([Caption(f"a {word} picture {seed % 1000}", -1.0) for seed in row])
        return found


class TrivialFilter:
    """ITM from the picture's bytes and the text's length; the embedding is a thumbnail."""

    name = "trivial-filter"
    dim = 48

    def score(self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> Scores:
        small = np.stack([np.asarray(image.resize((4, 4), Image.Resampling.BOX), dtype=np.float32).ravel() for image in images])
        small -= small.mean(1, keepdims=True)
        itm = [
            [float(abs(vector.sum() * 31 + len(text) * 17 + vector[0] * 7) % 100) / 100 for text in row]
            for vector, row in zip(small, texts, strict=True)
        ]
        return Scores(itm, None, small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rows-per-chunk", type=int, default=2048)
    parser.add_argument("--executor", choices=["ray", "local"], default="ray")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "scale.json")
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="capfilt-scale-"))
    try:
        result = measure(folder, args)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if not name.startswith("memory_mib")}, indent=1))


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    run, yaml = folder / "run", folder / "scale.yaml"
    make_inputs(folder / "inputs", args.rows)
    yaml.write_text(
        PIPELINE.format(output=run, inputs=folder / "inputs", chunk=args.rows_per_chunk, executor=args.executor), encoding="utf-8"
    )
    load_before = os.getloadavg()[0]
    plan_before = timed("plan", str(yaml))
    whole = timed("run", str(yaml))
    again = timed("run", str(yaml))
    plan_after = timed("plan", str(yaml))
    chosen = timed("select", str(run), "--name", "strict", "--set", "select.min_itm=0.7")
    first: dict[str, dict[str, float]] = {}
    for line in (run / "events" / "phases.jsonl").read_text().splitlines():
        told = json.loads(line)
        first.setdefault(told["phase"], told)
    return {
        "what": "rows of 32 px pictures through read .. write with a trivial captioner and filter",
        "rows": args.rows,
        "rows_per_chunk": args.rows_per_chunk,
        "chunks": len(list((run / "pool").glob("chunk-*.parquet"))),
        "executor": args.executor,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load_before": round(load_before, 1)},
        "note": "cpu_s is what the processes themselves used; seconds are by the clock and grow with what else the machine does",
        "cost": {
            "plan": cost(plan_before),
            "run": cost(whole),
            "run again, nothing to do": cost(again),
            "plan of a finished run": cost(plan_after),
            "select, another threshold": cost(chosen),
            "ledger of all candidates": ledger_cost(run),
        },
        "rows_per_cpu_s": round(args.rows / whole["cpu_s"], 1),
        "rows_per_s": round(args.rows / whole["seconds"], 1),
        "phases": {name: by_phase(args.rows, told, whole) for name, told in first.items()},
        "selection": json.loads((run / "round-1" / "selection" / "summary.json").read_text()),
        "memory_mib": whole["memory"][:: max(1, len(whole["memory"]) // 200)],
        "memory_mib_of_select": chosen["memory"][:: max(1, len(chosen["memory"]) // 20)],
    }


def cost(timed: dict[str, Any]) -> dict[str, float]:
    return {name: timed[name] for name in ("seconds", "cpu_s", "peak_driver_mib", "peak_workers_mib")}


def by_phase(rows: int, told: dict[str, float], whole: dict[str, Any]) -> dict[str, Any]:
    """A phase's rate, and the greatest memory in each quarter of it: flat means that the four are alike."""
    begin = told["started"] - whole["started"]
    points = [point for point in whole["memory"] if begin <= point["s"] <= begin + told["seconds"]]
    found: dict[str, Any] = {"seconds": round(told["seconds"], 1)}
    if told["seconds"] >= 1:
        found["rows_per_s"] = round(rows / told["seconds"], 1)
    if len(points) >= 2:
        found["cpu_s"] = round(points[-1]["cpu_s"] - points[0]["cpu_s"], 1)
    if len(points) >= 8:
        size = -(-len(points) // 4)
        quarters = [points[at : at + size] for at in range(0, len(points), size)]
        for name in ("driver", "workers", "largest_worker"):
            found[f"{name}_mib_by_quarter"] = [max(point[name] for point in quarter) for quarter in quarters]
    return found


def ledger_cost(run: Path) -> dict[str, float]:
    """Reading the footer of every committed chunk, which each start of a run does."""
    from capfilt.run.commit import read_footer
    from capfilt.run.ledger import Ledger

    folder = run / "round-1" / "candidates"
    footer = read_footer(str(next(folder.glob("chunk-*.parquet"))))
    assert footer is not None
    begin, cpu = time.monotonic(), time.process_time()
    done = Ledger(str(folder), footer.fingerprint, redo="round-1/caption").done()
    seconds, cpu_s = time.monotonic() - begin, time.process_time() - cpu
    return {"chunks": len(done), "seconds": round(seconds, 2), "cpu_s": round(cpu_s, 2)}


def make_inputs(folder: Path, rows: int) -> None:
    """Parquet files of `image` and `text`; written once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        path = folder / f"{number:03d}.parquet"
        if path.exists():
            continue
        count = min(ROWS_PER_FILE, rows - start)
        noise = np.random.default_rng(number).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        noise[50::50] = noise[49:-1:50][: len(noise[50::50])]
        with pq.ParquetWriter(path, pa.schema([("image", pa.binary()), ("text", pa.string())])) as writer:
            for at in range(0, count, 10_000):
                part = noise[at : at + 10_000]
                texts = [f"a web text, number {start + at + i}" if i % 10 else "" for i in range(len(part))]
                writer.write_table(pa.table({"image": [jpeg(pixels) for pixels in part], "text": texts}, schema=writer.schema))


def jpeg(pixels: np.ndarray[Any, Any]) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def timed(*command: str) -> dict[str, Any]:
    """Seconds of one command; CPU seconds and memory of its process and of all below it, seen every two seconds."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    print("──", *command, flush=True)
    start, started = time.monotonic(), time.time()
    process = subprocess.Popen([sys.executable, "-m", "capfilt", *command], env=environment, cwd=ROOT)
    memory: list[dict[str, float]] = []
    watcher = threading.Thread(target=watch, args=(process.pid, start, memory), daemon=True)
    watcher.start()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: exit status {status}")
    seconds = time.monotonic() - start
    workers = memory[-1]["cpu_s"] - memory[-1]["driver_cpu_s"] if memory else 0.0
    return {
        "seconds": round(seconds, 1),
        "started": started,
        "memory": memory,
        "cpu_s": round(max(used.ru_utime + used.ru_stime, (memory[-1]["driver_cpu_s"] if memory else 0.0) + workers), 1),
        "peak_driver_mib": round(used.ru_maxrss / 1024, 1),
        "peak_workers_mib": max((point["workers"] for point in memory), default=0.0),
    }


def watch(pid: int, start: float, memory: list[dict[str, float]]) -> None:
    """Own memory in MiB (pages shared with other processes, such as Ray's store of objects, are not counted), and CPU seconds
    so far, of those that ended too. Ends with the process."""
    used: dict[int, float] = {}
    while found := relatives(pid):
        used.update({other: cpu for other, _, _, cpu in found})
        mine = [mib for other, _, mib, _ in found if other == pid]
        others = [mib for other, kind, mib, _ in found if other != pid and kind.endswith("Actor")]
        memory.append(
            {
                "s": round(time.monotonic() - start, 1),
                "driver": round(sum(mine), 1),
                "workers": round(sum(others), 1),
                "largest_worker": round(max(others, default=0.0), 1),
                "all": round(sum(mib for _, _, mib, _ in found), 1),
                "driver_cpu_s": round(used.get(pid, 0.0), 1),
                "cpu_s": round(sum(used.values()), 1),
            }
        )
        time.sleep(2)


def relatives(driver: int) -> list[tuple[int, str, float, float]]:
    """(pid, role, own MiB, CPU seconds) of the driver and of every process below it."""
    parents: dict[int, int] = {}
    facts: dict[int, tuple[str, float, float]] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except (OSError, ValueError):
            continue  # it ended meanwhile
        parents[int(folder.name)] = int(status["PPid"])
        own = int(status.get("RssAnon", "0 kB").split()[0]) / 1024
        facts[int(folder.name)] = (role(command), own, (int(fields[11]) + int(fields[12])) / tick)
    if driver not in facts or not facts[driver][1]:
        return []
    return [(pid, *told) for pid, told in facts.items() if below(pid, driver, parents)]


if __name__ == "__main__":
    main()
