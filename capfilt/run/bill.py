"""What the whole run will cost and give, from what a trial on its first rows measured (`capfilt run P.yaml --limit N`).

Reads the trial's footers, summaries and times; knows nothing of stages. Rows are taken to be like the trial's, and the machine to
be the trial's: start-up is counted as if it grew with the rows, so a small trial says too much time rather than too little.
"""

import re
from dataclasses import dataclass
from math import sqrt
from typing import Any

import fsspec
import pyarrow.parquet as pq

from capfilt.config.pipeline import Pipeline
from capfilt.run import files

Z = 1.96  # of a normal distribution's middle 95 %
SMALLEST_TRIAL = 64  # rows; fewer say next to nothing


@dataclass(frozen=True)
class Cost:
    """One phase of the whole run. `gpu_hours` is None where it uses no GPU."""

    phase: str
    rows_per_s: float
    hours: float
    gpu_hours: float | None
    disk_bytes: int


@dataclass(frozen=True)
class Bill:
    """`rows` of the whole run, by the trial's `trial_rows`. `kept` is the share of rows with a kept text and its 95 % interval;
    None where the trial has no selection."""

    trial: str
    trial_rows: int
    rows: int
    costs: tuple[Cost, ...]
    kept: tuple[float, float, float] | None

    @property
    def slowest(self) -> Cost:
        return max(self.costs, key=lambda cost: cost.hours)


def estimate(pipeline: Pipeline, rows: int) -> Bill | None:
    """The bill of a run of `rows` rows by its largest trial, or by the run itself as far as it came; None where there is neither.

    Phases that do not grow with the rows (training, for a number of steps) are not in it.
    """
    trial = _largest_trial(pipeline.output)
    folder = pipeline.output if trial is None else trial[0]
    seconds: dict[str, float] = {}
    for line in files.lines(folder, "phases"):  # a trial that was stopped and went on has several lines for a phase
        seconds[line["phase"]] = seconds.get(line["phase"], 0.0) + float(line["seconds"])
    pool = files.listing(files.join(folder, "pool"), "chunk-", ".parquet")
    trial_rows = sum(_rows(path) for path in pool)
    if trial_rows < SMALLEST_TRIAL or not seconds.get("pool"):
        return None
    candidates = files.listing(files.join(folder, "round-1", "candidates"), "chunk-", ".parquet")
    of_dataset = files.get_json(files.join(folder, "round-1", "dataset", "manifest.json")) or {}
    disk = {
        "pool": sum(_size(path) for path in pool),
        "candidates": sum(_size(path) for path in candidates),
        "write": sum(int(file["bytes"]) for file in of_dataset.get("files", [])),
    }
    gpus = {"candidates": _gpus(pipeline, folder)}
    found: list[Cost] = []
    for phase in ("pool", "candidates", "dedup", "select", "write"):
        spent = seconds.get(phase if phase == "pool" else f"round-1/{phase}")
        if spent is None:
            continue
        rounds = 1 if phase == "pool" else pipeline.rounds
        hours = spent / trial_rows * rows * rounds / 3600
        on_gpu = gpus.get(phase, 0.0)
        size = disk.get(phase, 0) * rows * rounds // trial_rows
        found.append(Cost(phase, trial_rows / max(spent, 1e-9), hours, hours * on_gpu if on_gpu else None, size))
    summary = files.get_json(files.join(folder, "round-1", "selection", "summary.json"))
    kept = _interval(int(summary["kept_rows"]), int(summary["rows"])) if summary else None
    return Bill(folder, trial_rows, rows, tuple(found), kept)


def _largest_trial(output: str) -> tuple[str, int] | None:
    """Run folder and rows asked for, of the trials beside the run folder."""
    parent, _, name = output.rstrip("/").rpartition("/")
    here = re.compile(re.escape(name) + r"-limit-(\d+)$")
    found = [(path, int(match[1])) for path in _folders(parent or ".") if (match := here.search(path.rstrip("/")))]
    found = [(path, rows) for path, rows in found if files.exists(files.join(path, "events"))]
    return max(found, key=lambda one: one[1], default=None)


def _folders(parent: str) -> list[str]:
    system, path = fsspec.core.url_to_fs(parent)
    if not system.exists(path):
        return []
    names = [
        str(entry["name"]).rstrip("/").rpartition("/")[2]
        for entry in system.ls(path, detail=True)
        if entry["type"] == "directory"
    ]
    return [files.join(parent, name) for name in names]


def _rows(path: str) -> int:
    with files.open_file(path) as file:
        return int(pq.read_metadata(file).num_rows)


def _size(path: str) -> int:
    system, inner = fsspec.core.url_to_fs(path)
    return int(system.size(inner) or 0)


def _gpus(pipeline: Pipeline, trial: str) -> float:
    """In use while texts are written and scored; where the trial ran caption and filter as one, those of `caption`."""
    resources: Any = pipeline.resources
    pairings = [line for line in files.lines(trial, "pairing") if line.get("phase") == "round-1/candidates"]
    is_fused = bool(pairings) and bool(pairings[-1].get("fused"))
    of_filter = 0 if is_fused else resources.filter.actors * resources.filter.gpus
    return float(resources.caption.actors * resources.caption.gpus + of_filter)


def _interval(hits: int, count: int) -> tuple[float, float, float]:
    """Share and its Wilson interval."""
    share = hits / count
    middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return share, max(0.0, middle - half), min(1.0, middle + half)
