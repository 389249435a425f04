"""What a shared trunk costs in noise found, and what it gains in speed.

    python benchmarks/trunk.py noise --runs runs/trunk    the quickstart's world: about 10 minutes on two idle cores
    python benchmarks/trunk.py noise --runs runs/trunk --pretrained runs/quickstart      from the pre-trained model of a run
    python benchmarks/trunk.py speed                      random ViT-B/16 weights at 224 px: caption + filter

noise: one pre-training; from it captioner and filter once with `finetune.trunk: separate`, once with `shared`; each pair captions
and filters the same pool. The truth about the small web says what the filters found.

speed: caption and filter as one stage against the two one after the other, in turns, on the same pictures with one web text each,
in this process, one thread; the clock is the CPU seconds of this process. No text may end early: both decode the same number of
steps.

Each writes its part of benchmarks/results/trunk.json.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "trunk.json"
TRUNKS = ("separate", "shared")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    noise = parts.add_parser("noise")
    noise.add_argument("--runs", type=Path, required=True, help="gets a run folder for each way")
    noise.add_argument("--pipeline", default="quickstart")
    noise.add_argument(
        "--pretrained", type=Path, help="run folder of the same pipeline and settings, done as far as round-0/pretrain"
    )
    noise.add_argument("--name", default="quickstart", help="under which the figures are kept")
    noise.add_argument("--set", action="append", default=[], help="further settings, as in `capfilt run`")
    speed = parts.add_parser("speed")
    speed.add_argument("--rows", type=int, default=16)
    speed.add_argument("--batch", type=int, default=8)
    speed.add_argument("--rounds", type=int, default=3)
    speed.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    speed.add_argument("--architecture", default="med_vit_b16")
    args = parser.parse_args()
    found = measure_noise(args) if args.part == "noise" else measure_speed(args)
    name = args.name if args.part == "noise" else f"speed_{args.architecture}_{args.dtype}"
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps({"what": __doc__.split("\n")[0], **known, name: found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


# ── noise ──────────────────────────────────────────────────────────────────────────────────────────────────


def measure_noise(args: argparse.Namespace) -> dict[str, Any]:
    base = args.pretrained
    if base is None:
        base = args.runs / "base"
        run(args, base, "--until", "round-0/pretrain")
    found: dict[str, Any] = {"pipeline": args.pipeline, "settings": args.set}
    for trunk in TRUNKS:
        folder = args.runs / trunk
        again: list[str] = []
        if not folder.exists():
            shutil.copytree(base, folder, ignore=shutil.ignore_patterns("round-1", "lease.json"))
            again = ["--from", "round-0/finetune"]
        run(args, folder, "--set", f"finetune.trunk={trunk}", *again, "--until", "round-1/select")
        found[trunk] = told_by(folder)
    separate, shared = (found[trunk]["filter_quality"] for trunk in TRUNKS)
    found["cost"] = {
        f"{origin}_{measure}": round(separate[origin][measure] - shared[origin][measure], 4)
        for origin in ("web", "synthetic")
        for measure in ("roc_auc", "precision", "recall")
        if separate[origin].get(measure) is not None and shared[origin].get(measure) is not None
    }
    return found


def run(args: argparse.Namespace, folder: Path, *more: str) -> None:
    settings = [word for setting in args.set for word in ("--set", setting)]
    command = [sys.executable, "-m", "capfilt", "run", args.pipeline, "--set", f"output={folder}", *settings, *more]
    done = subprocess.run(command, check=False, env={"PYTHONPATH": str(ROOT), **os.environ})
    if done.returncode:
        raise SystemExit(f"{folder}: the run ended with exit code {done.returncode}")


def told_by(folder: Path) -> dict[str, Any]:
    """How well the filter of a run found noise, by its truth, and the seconds of its phases."""
    from capfilt.config.load import load_pipeline
    from capfilt.evaluation.filter_quality import filter_quality
    from capfilt.evaluation.truth import read_truth

    pipeline = load_pipeline(folder / "config.yaml", [f"output={folder}"])
    assert pipeline.evaluate is not None
    assert pipeline.evaluate.truth is not None
    assert pipeline.select is not None
    candidates = [str(path) for path in sorted((folder / "round-1" / "candidates").glob("chunk-*.parquet"))]
    quality = filter_quality(
        candidates,
        read_truth(pipeline.evaluate.truth),
        min_itm=pipeline.select.min_itm,
        scored_by="round-0 filter",
        selection=str(folder / "round-1" / "selection" / "selection.parquet"),
    )
    lines = [json.loads(line) for line in (folder / "events" / "phases.jsonl").read_text().splitlines()]
    seconds = {line["phase"]: line["seconds"] for line in lines if line["phase"] in ("round-0/finetune", "round-1/candidates")}
    pairing = folder / "round-1" / "pairing.json"
    return {
        "filter_quality": rounded(quality),
        "seconds": seconds,
        "pairing": json.loads(pairing.read_text()) if pairing.exists() else None,
    }


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


# ── speed ──────────────────────────────────────────────────────────────────────────────────────────────────

SHARPNESS = 11.0  # of the norm before the vocabulary, so that a random nucleus holds tens of tokens (benchmarks/model_rates.py)
PIPELINE = """
version: 1
name: trunk
output: {folder}/run
read: {{paths: [none.parquet]}}
caption:
  captioner: {{kind: med, checkpoint: {folder}/captioner}}
  decode: {{kind: nucleus, top_p: 0.9, min_length: 20, max_length: 20}}
  batch_size: {batch}
  dtype: {dtype}
filter: {{filter: {{kind: med, checkpoint: {folder}/filter}}, batch_size: {batch}, dtype: {dtype}}}
"""


def measure_speed(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from capfilt.config.load import load_text
    from capfilt.run.build import Job, build_stage

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        px = make_models(Path(place), args.architecture)
        job = Job("candidates", load_text(PIPELINE.format(folder=place, batch=args.batch, dtype=args.dtype)), "f", 1)
        caption, score, both = (build_stage(name, job) for name in ("caption", "filter", "caption+filter"))
    pool = pictures(args.rows, px)
    ways = {"separate": lambda: score(caption(pool)), "fused": lambda: both(pool)}
    assert ways["separate"]().equals(ways["fused"]()), "expected the same candidates"  # and both are warm now
    ratios, seconds = [], dict.fromkeys(ways, 0.0)
    for _ in range(args.rounds):
        spent = dict.fromkeys(ways, 0.0)
        for way in ("separate", "fused", "fused", "separate"):
            start = time.process_time()
            ways[way]()
            spent[way] += time.process_time() - start
        ratios.append(round(spent["separate"] / spent["fused"], 3))
        seconds = {way: seconds[way] + spent[way] for way in ways}
    done = 2 * args.rounds * args.rows
    return {
        "what": "pictures per CPU second, one thread, decoding counted: one nucleus caption of 20 tokens, then ITM and ITC of it "
        "and of a web text",
        "architecture": args.architecture,
        "picture_px": px,
        "dtype": args.dtype,
        "batch_size": args.batch,
        "pictures": args.rows,
        "per_s": {way: round(done / seconds[way], 3) for way in ways},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "candidates_equal": True,
        "torch": torch.__version__,
    }


def make_models(folder: Path, name: str) -> int:
    """Captioner and filter with one random image encoder; returns its picture size."""
    from capfilt.config.architecture import load_architecture
    from capfilt.config.load import find_yaml
    from capfilt.modeling.build import build
    from capfilt.modeling.tokenizer import Tokenizer
    from capfilt.modeling.weights import save_model

    architecture = load_architecture(find_yaml(name, "models"))
    assert architecture.kind == "med"
    specials = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    words = {
        1000 + at: word for at, word in enumerate(["a", "picture", "of", "small", "red", "green", "circle", "on", "the", "grass"])
    }
    size = architecture.text.vocab_size - 2
    tokenizer = Tokenizer.from_tokens([(specials | words).get(i, f"unused{i}") for i in range(size)])
    text = architecture.text.model_copy(update={"pad_id": 0, "cls_id": 101, "sep_id": 102})
    architecture = architecture.model_copy(update={"text": text})
    captioner, scorer = build(architecture, seed=0), build(architecture, seed=1)
    scorer.vision.load_state_dict(captioner.vision.state_dict())
    captioner.head.norm.weight.data.fill_(SHARPNESS)
    for role, model in (("captioner", captioner), ("filter", scorer)):
        save_model(folder / role, model, architecture, tokenizer)
    return architecture.image.size


def pictures(rows: int, px: int) -> Any:
    """A pool chunk of JPEGs of `px` on the shorter side, as `download.image_px` leaves them."""
    import io

    import numpy as np
    import pyarrow as pa
    from PIL import Image

    from capfilt.schema import CAPTION

    def jpeg(seed: int) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((px * 4 // 3, px), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=95)
        return stream.getvalue()

    web = {"text": "a small red circle on the green grass", "origin": "web", "scores": []}
    web |= dict.fromkeys(("captioner", "k", "log_prob", "rule", "error"))
    names = [str(i) for i in range(rows)]
    return pa.table(
        {
            "row_id": names,
            "uid": names,
            "status": ["ok"] * rows,
            "error": pa.nulls(rows, pa.string()),
            "image": pa.array([jpeg(i) for i in range(rows)], pa.large_binary()),
            "captions": pa.array([[web]] * rows, pa.list_(CAPTION)),
        }
    )


if __name__ == "__main__":
    main()
