"""The quickstart under several seeds, one after the other, and the table of what each reached.

    python benchmarks/quickstart_seeds.py 0 1 2                 choosing: the recipe may still change
    python benchmarks/quickstart_seeds.py --confirm 3 4 5 6 7   frozen YAML; the world gains noise and combinations never seen

Writes benchmarks/results/quickstart_seeds_{choose,confirm}.json with the recipe's hash, so that a later change of the recipe
shows. Seeds already there under the same hash are not run again.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
YAML = ROOT / "pipelines" / "quickstart.yaml"
RESULTS = ROOT / "benchmarks" / "results"


def recipe_hash() -> str:
    """Of what the pipeline and the architecture it names say; comments do not count, nor does where it runs."""
    said = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (YAML, ROOT / "models" / "med_tiny.yaml")]
    for operational in ("resources", "report"):
        del said[0][operational]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def run_seed(seed: int, *, confirm: bool, keep: bool) -> dict[str, Any]:
    output = ROOT / "runs" / f"seeds-{'confirm' if confirm else 'choose'}" / str(seed)
    command = [sys.executable, "-m", "capfilt", "run", str(YAML), "--set", f"seed={seed}", "--set", f"output={output}", "--fresh"]
    if confirm:
        command += ["--set", "miniweb.unseen=true"]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, check=False)
    seconds = time.monotonic() - start
    if done.returncode:
        raise SystemExit(f"seed {seed}: the run ended with exit code {done.returncode}")
    before, after = (json.loads((output / f"round-{n}" / "metrics.json").read_text()) for n in (0, 1))
    phases = [json.loads(line) for line in (output / "events" / "phases.jsonl").read_text().splitlines()]
    if not keep:
        shutil.rmtree(output / "pool")
    return {
        "seed": seed,
        "seconds": round(seconds, 1),
        "phases": {p["phase"]: round(p["seconds"], 1) for p in phases},
        "round_0": _short(before),
        "round_1": _short(after),
        "filter_quality": after["filter_quality"],
        "summary": json.loads((output / "round-1" / "selection" / "summary.json").read_text()),
    }


def _short(metrics: dict[str, Any]) -> dict[str, Any]:
    captioning = {k: v for k, v in metrics["captioning"].items() if k != "examples"}
    return {"primary": metrics["primary"], "retrieval": metrics["retrieval"], "captioning": captioning}


def table(runs: list[dict[str, Any]]) -> str:
    lines = [
        "seed  primary R0 -> R1     true captions R0 -> R1  synthetic true before/after   web AUC  syn AUC  web precision  min"
    ]
    for run in runs:
        web, syn = run["filter_quality"]["web"], run["filter_quality"]["synthetic"]
        lines.append(
            f"{run['seed']:>4}  {run['round_0']['primary']['value']:.3f} -> {run['round_1']['primary']['value']:.3f}"
            f"         {run['round_0']['captioning']['true']:.3f} -> {run['round_1']['captioning']['true']:.3f}"
            f"          {syn['true_before']:.3f} / {syn['true_after']:.3f}"
            f"                {web['roc_auc'] or 0:.3f}    {syn['roc_auc'] or 0:.3f}    {web['precision'] or 0:.3f}"
            f"          {run['seconds'] / 60:.1f}"
        )
    gains = [run["round_1"]["primary"]["value"] - run["round_0"]["primary"]["value"] for run in runs]
    spread = statistics.stdev(gains) if len(gains) > 1 else float("nan")
    lines.append(
        f"gain of round 1 over round 0: mean {statistics.mean(gains):+.3f}, sd {spread:.3f}, "
        f"better in {sum(g > 0 for g in gains)}/{len(gains)}"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--confirm", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the pool's pictures")
    args = parser.parse_args()
    out = RESULTS / f"quickstart_seeds_{'confirm' if args.confirm else 'choose'}.json"
    stored = json.loads(out.read_text()) if out.exists() else {}
    runs = stored.get("runs", []) if stored.get("recipe") == recipe_hash() else []
    for seed in args.seeds:
        if any(run["seed"] == seed for run in runs):
            continue
        runs.append(run_seed(seed, confirm=args.confirm, keep=args.keep))
        runs.sort(key=lambda run: run["seed"])
        RESULTS.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"recipe": recipe_hash(), "confirm": args.confirm, "runs": runs}, indent=1) + "\n")
        print(table(runs), flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
