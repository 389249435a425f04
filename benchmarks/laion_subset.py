"""The flagship pipeline on 20,000 rows and a CPU: planned, then run to its data set, with nothing changed but where and on what.

    python benchmarks/laion_subset.py DATA                     20,000 rows
    python benchmarks/laion_subset.py DATA --rows 1000         a quick look; its figures go nowhere

DATA is a folder with flickr8k/, coco_mini/ and web_text/: real pictures and real LAION texts, put together at random. The input
has LAION's columns; one address in eight is dead; pictures are scaled, cut and encoded again, a few times each, so that exact
and near copies are among them. Captioner and filter are small MEDs with random weights: what they say is noise, and the rates are
those of the line, not of BLIP. pipelines/laion_subset.yaml is run from a folder that has data/laion_subset/ and data/coco/ as it
names them; only address (`download.connect_to`), checkpoints and resources are given on the command line.

Writes benchmarks/results/laion_subset.json: rows per second, seconds by phase, peak memory of each process, the funnel.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from loopback import Loopback
from quickstart import resident
from real_pool_data import read_alt_texts, read_pictures

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = ROOT / "pipelines" / "laion_subset.yaml"
HOSTS = 64
ROWS_PER_FILE = 5000
DEAD = 0.12
VARIANTS = 3  # bodies of each picture
ROWS_PER_PICTURE = 10
LICENCES = ("?", "cc-by-sa-4.0", "cc-by-nc-2.0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="as for `capfilt run`")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "bench-laion_subset")
    parser.add_argument("--out", type=Path, help="of the figures; default: benchmarks/results/ where --rows is the default")
    args = parser.parse_args()
    work = args.folder.absolute() / str(args.rows)
    if not (work / "models").exists():
        make_input(args.data, work, args.rows, args.seed)
        for seed, role in enumerate(("captioner", "filter")):
            make_model(work / "models" / role, read_alt_texts(args.data), seed)
    result = measure(work, args)
    out = args.out or (ROOT / "benchmarks" / "results" / "laion_subset.json" if args.rows == 20_000 else None)
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(work: Path, args: argparse.Namespace) -> dict[str, Any]:
    settings = [f"caption.captioner.checkpoint={work}/models/captioner", f"filter.filter.checkpoint={work}/models/filter"]
    settings += ["resources.ray={address: local, logical_cpus: 4}", "resources.download={actors: 1, threads: 64}"]
    settings += [f"resources.{role}={{actors: 1, gpus: 0, threads: 1}}" for role in ("caption", "filter")]
    settings += ["resources.train={workers: 1, gpus: 0}"]
    shutil.rmtree(work / "runs", ignore_errors=True)
    start = time.monotonic()
    subprocess.run(command("plan", settings + args.set), cwd=work, check=True)
    plan_s = time.monotonic() - start
    with Loopback(work / "served.parquet") as server:
        address = f'download.connect_to={{"*.laion.test": "{server.address}"}}'
        load = os.getloadavg()[0]
        start = time.monotonic()
        run = subprocess.Popen([*command("run", [address, *settings, *args.set]), "--until", "write"], cwd=work)
        peaks: dict[str, int] = {}
        while run.poll() is None:
            for name, kib in resident(run.pid):
                peaks[name] = max(peaks.get(name, 0), kib)
            time.sleep(0.5)
        seconds = time.monotonic() - start
    if run.returncode:
        raise SystemExit(f"the run ended with exit code {run.returncode}")
    output = work / "runs" / "laion_subset"
    events = [json.loads(line) for line in (output / "events" / "phases.jsonl").read_text().splitlines()]
    phases = {event["phase"]: round(event["seconds"], 1) for event in events}
    return {
        "what": "capfilt run pipelines/laion_subset.yaml --until write, whole process; random MEDs (init 0.4, 64 px)",
        "changed": ["download.connect_to", *(setting.split("=")[0] for setting in settings), *args.set],
        "rows": args.rows,
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        "plan_s": round(plan_s, 1),
        "seconds": round(seconds, 1),
        "rows_per_s": round(args.rows / seconds, 1),
        "phases_s": phases,
        "phases_rows_per_s": {name: round(args.rows / s, 1) for name, s in phases.items() if s >= 1},
        "peak_resident_mib": {name: round(kib / 1024) for name, kib in sorted(peaks.items(), key=lambda pair: -pair[1])},
        "funnel": funnel(output),
    }


def command(name: str, settings: list[str]) -> list[str]:
    return [sys.executable, "-m", "capfilt", name, str(PIPELINE), *(part for one in settings for part in ("--set", one))]


def funnel(output: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    outcomes: Counter[str] = Counter()
    for path in sorted((output / "pool").glob("chunk-*.parquet")):
        rows = pq.read_table(path, columns=["status", "error"]).to_pylist()
        outcomes.update(row["status"] if row["error"] is None else f"{row['status']}: {row['error']}" for row in rows)
    summary = json.loads((output / "round-1" / "selection" / "summary.json").read_text())
    del summary["curves"]
    manifest = json.loads((output / "round-1" / "dataset" / "manifest.json").read_text())
    return {
        "pool": dict(sorted(outcomes.items())),
        "selection": summary,
        "dataset": {name: manifest[name] for name in ("rows", "texts", "shards", "formats")},
    }


# ── the input ───────────────────────────────────────────────────────────────────────────────────────────────


def make_input(data: Path, work: Path, rows: int, seed: int) -> None:
    """data/laion_subset/*.parquet, data/coco/{train,val,test}.parquet and served.parquet, as the pipeline names them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from capfilt.schema import PAIRS

    rng = Random(seed)
    coco = [{name: row[name] for name in PAIRS.names} for row in read_coco(data)]
    parts = {"val": coco[:40], "test": coco[40:80], "train": coco[80:]}
    (work / "data" / "coco").mkdir(parents=True, exist_ok=True)
    for name, pairs in parts.items():
        pq.write_table(pa.Table.from_pylist(pairs, PAIRS), work / "data" / "coco" / f"{name}.parquet")
    pictures = [row["image"] for row in [*coco, *read_pictures(data, "train")]][: max(1, rows // ROWS_PER_PICTURE)]
    bodies = [body for picture in pictures for body in varied(picture, rng)]
    texts = read_alt_texts(data)
    table, served = [], []
    for number in range(rows):
        path = f"/{number % 97}/{rng.getrandbits(48):012x}.jpg"
        if rng.random() >= DEAD:
            served.append({"path": path, "image": rng.choice(bodies)})
        table.append(
            {
                "URL": f"http://img{rng.randrange(HOSTS)}.laion.test{path}",
                "TEXT": rng.choice(texts),
                "similarity": round(rng.uniform(0.28, 0.45), 6),
                "punsafe": rng.random() ** 12,
                "pwatermark": rng.random(),
                "LICENSE": rng.choice(LICENCES),
            }
        )
    (work / "data" / "laion_subset").mkdir(parents=True, exist_ok=True)
    for start in range(0, rows, ROWS_PER_FILE):
        part = pa.Table.from_pylist(table[start : start + ROWS_PER_FILE])
        pq.write_table(part, work / "data" / "laion_subset" / f"part-{start // ROWS_PER_FILE:05d}.parquet")
    schema = pa.schema([("path", pa.string()), ("image", pa.large_binary())])
    pq.write_table(pa.Table.from_pylist(served, schema), work / "served.parquet")


def read_coco(data: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(data / "coco_mini" / "all.parquet").to_pylist()
    return rows


def varied(picture: bytes, rng: Random) -> list[bytes]:
    """The picture as it is, and scaled, cut and encoded again."""
    from PIL import Image

    found = [picture]
    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    while len(found) < VARIANTS:
        longer = rng.uniform(200, 800)
        scale = longer / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = rng.uniform(0, 0.2) * width, rng.uniform(0, 0.2) * height
        cut = resized.crop((int(left), int(top), width - int(rng.uniform(0, 0.2) * width), height))
        out = io.BytesIO()
        cut.save(out, "JPEG", quality=rng.randint(70, 92))
        found.append(out.getvalue())
    return found


def make_model(folder: Path, texts: list[str], seed: int) -> None:
    """A MED with random weights, large enough (deviation 0.4) that pictures and texts change what it says."""
    from capfilt.config.architectures.med import MedArchitecture
    from capfilt.config.architectures.parts import TextConfig, VisionConfig
    from capfilt.modeling.build import build
    from capfilt.modeling.tokenizer import Tokenizer
    from capfilt.modeling.weights import save_model

    tokenizer = Tokenizer.train([*texts, "a picture of "], 1000)
    text = TextConfig(
        vocabulary="trained",
        vocab_size=len(tokenizer),
        width=64,
        layers=2,
        heads=4,
        intermediate=256,
        max_positions=64,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    image = VisionConfig(size=64, patch=16, width=64, layers=2, heads=4)
    architecture = MedArchitecture(kind="med", image=image, text=text, embed_dim=64, queue_size=0, init_std=0.4)
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_model(folder, build(architecture, seed=seed), architecture, tokenizer)


if __name__ == "__main__":
    main()
