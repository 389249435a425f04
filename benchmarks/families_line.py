"""Each family's quickstart from end to end with `capfilt run`: what the next model gains, its filter is worth, and it costs.

    python benchmarks/families_line.py run coca soho        # one after the other; a run that was stopped goes on
    python benchmarks/families_line.py run soho --label soho_random --set finetune.filter.matching.negatives=random
    python benchmarks/families_line.py table                # writes benchmarks/results/families_line.json, prints a table

Everything is computed by one thread in one process (`resources.executor: local`), so that CPU seconds say what a run costs,
whatever else the machine does (Linux: /proc is asked twice a second). Two threads train faster by the clock and cost more CPU;
their sums, and so the weights, differ in the last bits.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "families_line.json"
FAMILIES = ("coca", "blip2", "clipcap", "soho")
TICK = 0.5


class CpuOfTree:
    """CPU seconds of a process and of all it started, by the clock."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.seen: dict[int, float] = {}
        self.course: list[tuple[float, float]] = [(time.time(), 0.0)]

    def look(self) -> None:
        parents: dict[int, int] = {}
        spent: dict[int, float] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            parents[int(stat.parent.name)] = int(fields[1])
            spent[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for pid, seconds in spent.items():
            above = pid
            while above not in (self.pid, 0):
                above = parents.get(above, 0)
            if above == self.pid:
                self.seen[pid] = seconds
        self.course.append((time.time(), sum(self.seen.values())))

    def between(self, start: float, end: float) -> float:
        return self._at(end) - self._at(start)

    def _at(self, moment: float) -> float:
        before = self.course[0]
        for after in self.course:
            if after[0] >= moment:
                span = after[0] - before[0]
                share = (moment - before[0]) / span if span else 0.0
                return before[1] + share * (after[1] - before[1])
            before = after
        return before[1]


def run(family: str, label: str, folder: Path, settings: list[str]) -> None:
    """One run; its exit code and CPU seconds by phase go to LABEL.runs.json, a line for each start."""
    import yaml

    pipeline = f"quickstart_{family}"
    output = folder / label
    tree = yaml.safe_load((ROOT / "pipelines" / f"{pipeline}.yaml").read_text(encoding="utf-8"))
    sections = tree["pretrain"] if isinstance(tree["pretrain"], list) else None
    single = [f"pretrain.{i}.threads=1" for i in range(len(sections))] if sections else ["pretrain.threads=1"]
    single += [f"finetune.{role}.threads=1" for role in ("captioner", "filter")]
    settings = [f"output={output}", "resources.executor=local", *single, *settings]
    command = [sys.executable, "-m", "capfilt", "run", f"pipelines/{pipeline}.yaml"]
    for setting in settings:
        command += ["--set", setting]
    print(" ".join(command), flush=True)
    # A restart goes on, and adds its lines to those of the start before.
    earlier = _phases(output)
    began = time.time()
    running = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    clock, ended = CpuOfTree(running.pid), threading.Event()

    def watch() -> None:
        while not ended.wait(TICK):
            clock.look()

    watching = threading.Thread(target=watch)
    watching.start()
    code = running.wait()
    ended.set()
    watching.join()
    phases = _phases(output)[len(earlier) :]
    told = {
        "settings": settings[1:],
        "exit_code": code,
        "clock_s": round(time.time() - began, 1),
        "cpu_s": round(clock.course[-1][1], 1),
        "phases_cpu_s": {p["phase"]: round(clock.between(p["started"], p["started"] + p["seconds"]), 1) for p in phases},
    }
    with (folder / f"{label}.runs.jsonl").open("a") as log:
        log.write(json.dumps(told) + "\n")
    print(json.dumps(told), flush=True)


def _phases(output: Path) -> list[dict[str, Any]]:
    file = output / "events" / "phases.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def summary(label: str, folder: Path) -> dict[str, Any]:
    """Of a run that ended: what round 0 had and round 1 reached, and what round 0's filter was worth on round 1's texts."""
    starts = [json.loads(line) for line in (folder / f"{label}.runs.jsonl").read_text().splitlines()]
    before, after = (json.loads((folder / label / f"round-{n}" / "metrics.json").read_text()) for n in (0, 1))
    chosen = json.loads((folder / label / "round-1" / "selection" / "summary.json").read_text())
    quality = after["filter_quality"]
    phases: dict[str, float] = {}
    for start in starts:
        for phase, seconds in start["phases_cpu_s"].items():
            phases[phase] = round(phases.get(phase, 0.0) + seconds, 1)
    return {
        "starts": len(starts),
        "exit_code": starts[-1]["exit_code"],
        "settings": starts[-1]["settings"],
        "cpu_s": round(sum(start["cpu_s"] for start in starts), 1),
        "clock_s": round(sum(start["clock_s"] for start in starts), 1),
        "phases_cpu_s": phases,
        "primary": {f"round_{n}": found["primary"] for n, found in enumerate((before, after))},
        "captions": {f"round_{n}": _captions(found["captioning"]) for n, found in enumerate((before, after))},
        "filter": {
            "threshold": {key: value for key, value in quality.items() if key.startswith("min_")},
            "web": {key: quality["web"][key] for key in ("count", "true", "kept", "precision", "recall", "roc_auc")},
            "synthetic": {
                key: quality["synthetic"].get(key) for key in ("count", "kept", "true_before", "true_after", "recall", "roc_auc")
            },
        },
        "kept_rows": chosen["kept_rows"],
        "kept_texts": chosen["kept_texts"],
    }


def _captions(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found.get(key) for key in ("model", "cider_d", "true", "true_interval")}


def table(folder: Path) -> None:
    labels = sorted(path.name.removesuffix(".runs.jsonl") for path in folder.glob("*.runs.jsonl"))
    runs = {label: summary(label, folder) for label in labels if (folder / label / "round-1" / "metrics.json").exists()}
    result = {
        "what": "capfilt run pipelines/quickstart_{coca,blip2,clipcap,soho}.yaml, whole runs, seed 0, one thread",
        "runs": runs,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print("run | primary before | after | CIDEr-D | true captions | web ROC AUC | synthetic ROC AUC | true synthetic | CPU s")
    for label, found in runs.items():
        primary, captions, filtered = found["primary"], found["captions"], found["filter"]
        cells = [
            label,
            *(f"{primary[n]['value']:.3f} ({primary[n]['interval'][0]:.2f}-{primary[n]['interval'][1]:.2f})" for n in primary),
            " to ".join(f"{one['cider_d']:.2f}" for one in captions.values()),
            " to ".join(f"{one['true']:.2f}" for one in captions.values()),
            f"{filtered['web']['roc_auc']:.3f}",
            f"{filtered['synthetic']['roc_auc']:.3f}",
            f"{filtered['synthetic']['true_before']:.3f} to {filtered['synthetic']['true_after']:.3f}",
            f"{found['cpu_s']:,.0f}",
        ]
        print(" | ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("families", nargs="*", help=", ".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "families_line")
    parser.add_argument("--label", help="of the run, where a family has several")
    parser.add_argument("--set", action="append", default=[], help="as for `capfilt run`")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.what == "table":
        table(arguments.out)
        return
    for family in arguments.families or FAMILIES:
        run(family, arguments.label or family, arguments.out, arguments.set)


if __name__ == "__main__":
    main()
