"""A run folder behind an fsspec address: pipelines/debug.yaml, training and all, writes the files that it writes on a disk."""

import json
from pathlib import Path

import pytest

from capfilt.config.load import load_pipeline
from capfilt.rounds import run_pipeline
from capfilt.run import files
from capfilt.run.progress import SilentProgress
from capfilt.run.scratch import tree

pytestmark = pytest.mark.slow
ADDRESS = "memory:///capfilt-e2e/runs/debug"
TIMED = ("report.html", "config.yaml", "plan.json")  # wall-clock, or the name of the run folder


def without_speed(name: str, data: bytes | None) -> object:
    if data is None or not name.endswith("log.jsonl"):
        return data
    return [{key: value for key, value in json.loads(line).items() if key != "pairs_per_s"} for line in data.splitlines()]


def told(found: dict[str, bytes | None]) -> dict[str, object]:
    return {name: without_speed(name, data) for name, data in found.items() if not name.startswith(("events", *TIMED))}


def test_a_run_on_an_object_store_is_the_run_on_a_disk(finished: Path) -> None:
    paths = [path for path in finished.rglob("*") if path.is_file()]
    here = {str(path.relative_to(finished)): path.read_bytes() for path in paths}
    result = run_pipeline(load_pipeline("debug", [f"output={ADDRESS}"]), source=Path("debug.yaml"), progress=SilentProgress())
    there = {path[len(ADDRESS) + 1 :]: files.get(path) for path in tree(ADDRESS)}
    assert told(there) == told(here)
    page = (files.get(f"{ADDRESS}/report.html") or b"").decode()
    assert result.report == f"{ADDRESS}/report.html"
    assert page.count('src="data:image') == here["report.html"].decode().count('src="data:image') > 10
    files.remove(ADDRESS)
