"""Whose gain it is: the quickstart's seeds once more with the filter alone and with the captioner alone (BLIP, Table 1).

    python benchmarks/quickstart_seeds.py --confirm 3 4 5 --keep
    python benchmarks/quickstart_arms.py --confirm 3 4 5

Each arm is a copy of the seed's run from which another selection is written and a new model trained, with the same steps. `raw`
and `both` are the run's own rounds. Writes benchmarks/results/quickstart_arms.json with the recipe's hash; what is there is not
run again.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from quickstart_seeds import RESULTS, ROOT, YAML, recipe_hash

OUT = RESULTS / "quickstart_arms.json"
ARMS = {
    "filter": ["select.policy=web"],  # the web texts that pass
    "captioner": ["select.min_itm=0"],  # every text, web and synthetic
}


def run_arm(run: Path, seed: int, arm: str, *, confirm: bool) -> dict[str, Any]:
    output = ROOT / "runs" / "arms" / f"{run.parent.name}-{seed}-{arm}"
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(run, output)
    settings = [f"seed={seed}", f"output={output}", *(["miniweb.unseen=true"] if confirm else []), *ARMS[arm]]
    command = [sys.executable, "-m", "capfilt", "run", str(YAML), "--from", "round-1/select"]
    subprocess.run([*command, *(word for setting in settings for word in ("--set", setting))], cwd=ROOT, check=True)
    found = told(output, 1)
    shutil.rmtree(output)
    return found


def told(run: Path, number: int) -> dict[str, Any]:
    metrics = json.loads((run / f"round-{number}" / "metrics.json").read_text())
    captioning = {name: metrics["captioning"][name] for name in ("cider_d", "true")}
    summary = run / f"round-{number}" / "selection" / "summary.json"
    kept = json.loads(summary.read_text())["kept_texts"] if number else None
    return {"primary": metrics["primary"], "captioning": captioning, "kept_texts": kept}


def table(seeds: dict[str, Any]) -> str:
    names = ("raw", *ARMS, "both")
    rows = [
        [seed, *(f"{arms[name]['primary']['value']:.3f}" if name in arms else "" for name in names)]
        for seed, arms in seeds.items()
    ]
    whole = [arms for arms in seeds.values() if all(name in arms for name in names)]
    if whole:
        rows.append(["mean", *(f"{statistics.mean(arms[name]['primary']['value'] for arms in whole):.3f}" for name in names)])
    return "\n".join("  ".join(f"{word:>9}" for word in row) for row in [["seed", *names], *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--confirm", action="store_true")
    args = parser.parse_args()
    stored = json.loads(OUT.read_text()) if OUT.exists() else {}
    if stored.get("recipe") != recipe_hash():
        stored = {
            "what": "mean of TR@1 and IR@1 and captions, by what the new model learnt from",
            "recipe": recipe_hash(),
            "seeds": {},
        }
    for seed in args.seeds:
        run = ROOT / "runs" / f"seeds-{'confirm' if args.confirm else 'choose'}" / str(seed)
        arms = stored["seeds"].setdefault(str(seed), {})
        arms |= {"raw": told(run, 0), "both": told(run, 1)}
        for arm in ARMS:
            if arm not in arms:
                arms[arm] = run_arm(run, seed, arm, confirm=args.confirm)
            OUT.write_text(json.dumps(stored, indent=1) + "\n")
        print(table(stored["seeds"]), flush=True)


if __name__ == "__main__":
    main()
