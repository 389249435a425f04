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
from quickstart import resident

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
    args = parser.parse_args()
    folder = args.keep or Path(tempfile.mkdtemp(prefix="capfilt-scale-"))
    try:
        result = measure(folder, args)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    out = ROOT / "benchmarks" / "results" / "scale.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "memory_mib"}, indent=1))


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    run, yaml = folder / "run", folder / "scale.yaml"
    make_inputs(folder / "inputs", args.rows)
    yaml.write_text(
        PIPELINE.format(output=run, inputs=folder / "inputs", chunk=args.rows_per_chunk, executor=args.executor), encoding="utf-8"
    )
    plan_before = timed("plan", str(yaml))
    whole = timed("run", str(yaml), sample=True)
    again = timed("run", str(yaml))
    plan_after = timed("plan", str(yaml))
    chosen = timed("select", str(run), "--name", "strict", "--set", "select.min_itm=0.7", sample=True)
    phases = [json.loads(line) for line in (run / "events" / "phases.jsonl").read_text().splitlines()]
    first: dict[str, float] = {}
    for phase in phases:
        first.setdefault(phase["phase"], round(phase["seconds"], 1))
    return {
        "what": "rows of 32 px pictures through read .. write with a trivial captioner and filter",
        "rows": args.rows,
        "rows_per_chunk": args.rows_per_chunk,
        "executor": args.executor,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "seconds": {
            "plan": plan_before["seconds"],
            "run": whole["seconds"],
            "run again, nothing to do": again["seconds"],
            "plan of a finished run": plan_after["seconds"],
            "select, another threshold": chosen["seconds"],
        },
        "rows_per_s": {name: round(args.rows / seconds, 1) for name, seconds in first.items() if seconds >= 1},
        "phases": first,
        "peak_mib": {"run": whole["peak_mib"], "select": chosen["peak_mib"]},
        "quarters_mib": quarters(whole["memory"]),
        "selection": json.loads((run / "round-1" / "selection" / "summary.json").read_text()),
        "memory_mib": whole["memory"][:: max(1, len(whole["memory"]) // 200)],
    }


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


def timed(*command: str, sample: bool = False) -> dict[str, Any]:
    """Seconds of one command and, when asked, the memory of its process and of all below it, every two seconds."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    print("──", *command, flush=True)
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "capfilt", *command], env=environment, cwd=ROOT)
    memory: list[dict[str, float]] = []
    watcher = threading.Thread(target=watch, args=(process.pid, start, memory), daemon=True)
    if sample:
        watcher.start()
    if process.wait():
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    peak = {name: max((point[name] for point in memory), default=0.0) for name in ("driver", "workers", "largest_worker")}
    return {"seconds": round(time.monotonic() - start, 1), "memory": memory, "peak_mib": peak}


def watch(pid: int, start: float, memory: list[dict[str, float]]) -> None:
    """Resident memory in MiB; shared pages are counted in each process that maps them. Ends with the process."""
    while found := resident(pid):
        others = [kib / 1024 for name, kib in found if name != "driver"]
        memory.append(
            {
                "s": round(time.monotonic() - start, 1),
                "driver": round(sum(kib for name, kib in found if name == "driver") / 1024, 1),
                "workers": round(sum(others), 1),
                "largest_worker": round(max(others, default=0.0), 1),
            }
        )
        time.sleep(2)


def quarters(memory: list[dict[str, float]]) -> list[dict[str, float]]:
    """Greatest resident memory in each quarter of the run's time: flat means that they are alike."""
    size = max(1, -(-len(memory) // 4))
    parts = [memory[at : at + size] for at in range(0, len(memory), size)]
    return [{name: max(point[name] for point in part) for name in ("driver", "workers", "largest_worker")} for part in parts]


if __name__ == "__main__":
    main()
