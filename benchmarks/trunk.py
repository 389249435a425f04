"""What a shared trunk costs in noise found, and what it gains in speed.

    python benchmarks/trunk.py noise RUN --out FOLDER    from the pre-trained model and the pool of a run, the quickstart's or so
    python benchmarks/trunk.py speed                     random ViT-B/16 weights at 224 px: caption + filter

noise: from the pre-trained model of RUN's round 0, captioner and filter are fine-tuned as RUN's pipeline says, once with
`finetune.trunk: separate` and once with `shared`; each pair captions and filters RUN's pool, and RUN's truth says what the
filters found. `capfilt run pipelines/quickstart.yaml --until round-0/pretrain` is run enough. One training thread.

speed: caption and filter as one stage against the two one after the other, in turns, on the same pictures with one web text each,
in this process, one thread; the clock is the CPU seconds of this process. No text may end early: both decode the same number of
steps.

Each writes its part of benchmarks/results/trunk.json.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "trunk.json"
TRUNKS = ("separate", "shared")
MEASURES = ("roc_auc", "precision", "recall")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    noise = parts.add_parser("noise")
    noise.add_argument("run", type=Path, help="a run folder with pool and round-0/models/pretrained")
    noise.add_argument("--out", type=Path, required=True, help="gets the fine-tuned models and the candidates")
    noise.add_argument("--name", help="under which the figures are kept; else the pipeline's name and seed")
    speed = parts.add_parser("speed")
    speed.add_argument("--rows", type=int, default=16)
    speed.add_argument("--batch", type=int, default=8)
    speed.add_argument("--rounds", type=int, default=3)
    speed.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    speed.add_argument("--architecture", default="med_vit_b16")
    args = parser.parse_args()
    found = measure_noise(args) if args.part == "noise" else measure_speed(args)
    name = found.pop("name") if args.part == "noise" else f"speed_{args.architecture}_{args.dtype}"
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps({"what": __doc__.split("\n")[0], **known, name: found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


# ── noise ──────────────────────────────────────────────────────────────────────────────────────────────────


def measure_noise(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from capfilt.config.load import load_pipeline

    torch.set_num_threads(1)
    pipeline = load_pipeline(args.run / "config.yaml", [f"output={args.run.absolute()}"])
    found: dict[str, Any] = {"name": args.name or f"{pipeline.name}_seed_{pipeline.seed}", "training_threads": 1}
    for trunk in TRUNKS:
        folder = (args.out / trunk).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        finetune(pipeline, trunk, args.run / "round-0" / "models" / "pretrained", folder)
        trained = time.process_time()
        quality, pictures, halves = caption_and_filter(pipeline, trunk, args.run.absolute(), folder)
        seconds = {"finetune": round(trained - start, 1), "caption_and_filter": round(time.process_time() - trained, 1)}
        found[trunk] = {
            "filter_quality": rounded(quality),
            "upper_half": rounded(halves),
            "pictures": pictures,
            "cpu_seconds": seconds,
        }
    separate, shared = (found[trunk]["filter_quality"] for trunk in TRUNKS)
    found["cost"] = {
        f"{origin}_{measure}": round(separate[origin][measure] - shared[origin][measure], 4)
        for origin in ("web", "synthetic")
        for measure in MEASURES
        if separate[origin].get(measure) is not None and shared[origin].get(measure) is not None
    }
    found["cost_at_half"] = {
        f"{score}_{measure}": round(half[measure] - found["shared"]["upper_half"][score][measure], 4)
        for score, half in found["separate"]["upper_half"].items()
        for measure in MEASURES
    }
    return found


def finetune(pipeline: Any, trunk: str, start: Path, folder: Path) -> None:
    """Both models into `folder`; those that are there stay."""
    from capfilt.training import finetune_captioner, finetune_filter

    section, models = pipeline.finetune, folder / "round-0" / "models"
    common = {"human": section.human, "image_px": section.image_px, "trunk": trunk, "start": start, "seed": pipeline.seed}
    for role, train in (("captioner", finetune_captioner), ("filter", finetune_filter)):
        prompt = {"prompt": pipeline.caption.prompt} if role == "captioner" else {}
        config = getattr(section, role).model_copy(update={"threads": 1})
        train(config, out=models / role, work=folder / "training" / role, device="cpu", **common, **prompt)


def caption_and_filter(pipeline: Any, trunk: str, run: Path, folder: Path) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """How well the filter found noise, by the truth; how many pictures there were; and, per score, the half of the web texts that
    it likes best: two filters that keep equally many, whatever their scales."""
    import pyarrow.parquet as pq

    from capfilt.config.select import SelectConfig
    from capfilt.evaluation.filter_quality import filter_quality
    from capfilt.evaluation.truth import read_truth
    from capfilt.plan import Chunk
    from capfilt.run.build import Job
    from capfilt.run.local_executor import LocalExecutor
    from capfilt.run.pairing import paired

    if not (folder / "pool").exists():
        (folder / "pool").symlink_to(run / "pool")
    section = pipeline.finetune.model_copy(update={"trunk": trunk})
    own = pipeline.model_copy(update={"output": str(folder), "finetune": section})
    models = folder / "round-0" / "models"
    job, _ = paired(Job("candidates", own, "trunk", 1, str(models / "captioner"), str(models / "filter")))
    assert job.fused == (trunk == "shared")
    chunks = [Chunk(path.stem.removeprefix("chunk-"), "", "", 0, 0, 0, 0) for path in sorted((run / "pool").glob("chunk-*"))]
    outcomes = list(LocalExecutor().run(job, chunks))
    assert not any(outcome.error for outcome in outcomes), outcomes
    candidates = [str(path) for path in sorted((folder / "round-1" / "candidates").glob("chunk-*.parquet"))]
    healthy = sum(pq.read_table(path, columns=["status"])["status"].to_pylist().count("ok") for path in candidates)
    truth = read_truth(pipeline.evaluate.truth)
    quality = filter_quality(candidates, truth, policy=pipeline.select)
    halves = {
        score: filter_quality(candidates, truth, policy=SelectConfig(**{f"min_{score}": median_of_web(candidates, score)}))["web"]
        for score in ("itm", "itc")
    }
    return quality, healthy, halves


def median_of_web(candidates: list[str], score: str) -> float:
    import pyarrow.parquet as pq

    texts = [
        text for path in candidates for row in pq.read_table(path, columns=["captions"])["captions"].to_pylist() for text in row
    ]
    return statistics.median(one[score] for text in texts if text["origin"] == "web" for one in text["scores"])


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
    from capfilt.config.architectures import load_architecture
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
