"""What the pipeline costs over the model calls themselves: images per second of caption + filter through Ray, over a bare loop.

    python benchmarks/pipeline_rate.py                  base-size MED (random weights): the figure with a bar, 0.85
    python benchmarks/pipeline_rate.py --architecture med_tiny --rows 3000 --rows-per-chunk 128

Both sides run the same two stages over the same pool with as many CPU threads in all: the loop in this process with two threads,
the pipeline with a captioner and a filter of one thread each. Passes alternate. Steady state: the pipeline's clock runs from its
first committed chunk to its last, the loop's over the same chunks after one for warming up. Random weights seldom end a caption,
so both decode the full length.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["a", "on", "with", "picture", "big", "small", "red", "green", "circle", "ring", "grass", "sand", "sky"]

PIPELINE = """
version: 1
name: pipeline_rate
output: {output}
miniweb: {{pictures: {rows}, human_pairs: 2, heldout_pairs: 2, bad_urls: 0.02, duplicates: 0}}
read: {{paths: ["{{output}}/miniweb/web.parquet"], rows_per_chunk: {rows_per_chunk}}}
download: {{connect_to: {{"*.miniweb.test": miniweb}}, image_px: {px}, deadline_s: 3}}
caption:
  captioner: {{kind: med, checkpoint: {models}/captioner}}
  decode: {{kind: nucleus, top_p: 0.9, min_length: 5, max_length: 20}}
  batch_size: {batch}
filter: {{filter: {{kind: med, checkpoint: {models}/filter}}, batch_size: {batch}}}
resources: {{executor: ray, ray: {{address: local, logical_cpus: 4}}, max_failure_rate: {{caption: null, filter: null}}}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="med_vit_b16")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--rows-per-chunk", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--passes", type=int, default=3)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "2"
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), args)
    out = ROOT / "benchmarks" / "results" / f"pipeline_rate_{args.architecture}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    from capfilt.config.load import load_text
    from capfilt.rounds import run_pipeline

    image_px = make_models(folder / "models", args.architecture)
    text = PIPELINE.format(
        output=folder / "run",
        rows=args.rows,
        rows_per_chunk=args.rows_per_chunk,
        px=image_px,
        models=folder / "models",
        batch=args.batch,
    )
    pipeline = load_text(text, "pipeline_rate.yaml")
    run_pipeline(pipeline, until="screen")
    pairs = []
    for number in range(args.passes):
        # the second to use the machine may find it busier: they take turns in going first
        sides = (through_ray, bare_loop)
        rates = [0.0, 0.0]
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            rates[side] = sides[side](pipeline, folder / "run")
        ratio = round(rates[0] / rates[1], 3)
        pairs.append({"pipeline_per_s": round(rates[0], 3), "loop_per_s": round(rates[1], 3), "ratio": ratio})
        print(pairs[-1], flush=True)
    ratios = [pair["ratio"] for pair in pairs]
    return {
        "what": "images/s of caption + filter through the pipeline (steady state) over a bare loop of the same stages",
        "architecture": args.architecture,
        "rows": args.rows,
        "rows_per_chunk": args.rows_per_chunk,
        "batch_size": args.batch,
        "cpus": os.cpu_count(),
        "passes": pairs,
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def make_models(folder: Path, name: str) -> int:
    """Two models of the architecture with random weights; returns their picture size."""
    from capfilt.config.architectures import load_architecture
    from capfilt.config.load import find_yaml
    from capfilt.modeling.build import build
    from capfilt.modeling.tokenizer import Tokenizer
    from capfilt.modeling.weights import save_model

    architecture = load_architecture(find_yaml(name, "models"))
    specials = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    size = architecture.text.vocab_size - 2
    words = iter(WORDS)
    vocabulary = [specials.get(i) or (next(words, None) if i > 103 else None) or f"unused{i}" for i in range(size)]
    tokenizer = Tokenizer.from_tokens(vocabulary)
    text = architecture.text.model_copy(update={"pad_id": 0, "cls_id": 101, "sep_id": 102})
    architecture = architecture.model_copy(update={"text": text})
    for seed, role in enumerate(("captioner", "filter")):
        folder.mkdir(parents=True, exist_ok=True)
        save_model(folder / role, build(architecture, seed=seed), architecture, tokenizer)
    return architecture.image.size


def through_ray(pipeline: Any, run: Path) -> float:
    from capfilt.rounds import run_pipeline

    begun = (run / "round-1" / "candidates").exists()
    run_pipeline(pipeline, until="filter", start_from="caption" if begun else None)
    committed = sorted((run / "round-1" / "candidates").glob("chunk-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    seconds = (committed[-1].stat().st_mtime_ns - committed[0].stat().st_mtime_ns) / 1e9
    return sum(healthy(path) for path in committed[1:]) / seconds


def healthy(path: Path) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    return int(pc.sum(pc.equal(pq.read_table(path, columns=["status"])["status"], "ok")).as_py() or 0)


def bare_loop(pipeline: Any, run: Path) -> float:
    import pyarrow.parquet as pq
    import torch

    from capfilt.captioners import build_captioner
    from capfilt.filters import build_filter
    from capfilt.stages.base import Guarded
    from capfilt.stages.caption import CaptionStage
    from capfilt.stages.filter import FilterStage

    torch.set_num_threads(2)
    captioner = build_captioner(pipeline.caption, trained=None, device="cpu")
    caption = Guarded(CaptionStage(pipeline.caption, captioner=captioner, seed=0, round_number=1))
    score = Guarded(FilterStage(pipeline.filter, scorer=build_filter(pipeline.filter, trained=None, device="cpu")))
    chunks = sorted((run / "pool").glob("chunk-*.parquet"))
    score(caption(pq.read_table(chunks[0])))
    start = time.perf_counter()
    for path in chunks[1:]:
        score(caption(pq.read_table(path)))
    return sum(healthy(path) for path in chunks[1:]) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
