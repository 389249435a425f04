"""pipelines/debug.yaml twice, from nothing, in two folders: the same bytes. And what no float touches, pinned.

Weights, scores and synthetic texts are floats' work and may differ from machine to machine, JPEG bytes from libjpeg to libjpeg;
only what comes before them is compared with `debug_pool.json`.
"""

import json
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.config.load import load_pipeline
from capfilt.rounds import run_pipeline
from capfilt.run.progress import SilentProgress

GOLDEN = Path(__file__).parent / "debug_pool.json"
PINNED = ("url", "text", "uid", "status", "error")
TIMED = ("events", "steps", "report.html", "training")  # wall-clock, and pages that show it
PLACED = ("config.yaml", "plan.json", "inputs.parquet")  # name the run folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = tuple(tmp_path_factory.mktemp(name) for name in ("first", "second"))
    for folder in folders:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            run_pipeline(load_pipeline("debug"), source=Path("debug.yaml"), progress=SilentProgress())
    return folders[0] / "runs/debug", folders[1] / "runs/debug"


def files(run: Path) -> dict[str, str]:
    """Hash of every file that is promised to be the same."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        if path.is_file() and not {*name.parts} & {*TIMED, *PLACED}:
            found[str(name)] = sha256(path.read_bytes()).hexdigest()
    return found


def test_two_runs_write_the_same_bytes(runs: tuple[Path, Path]) -> None:
    first, second = (files(run) for run in runs)
    assert first == second


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("pool/chunk-*.parquet", 4),
        ("round-1/candidates/chunk-*.parquet", 4),
        ("round-1/selection/selection.parquet", 1),
        ("round-1/dataset/parquet/0*.parquet", 1),
        ("round-1/dataset/webdataset/0*.tar", 1),
        ("round-[01]/models/*/model.safetensors", 6),
        ("round-[01]/metrics.json", 2),
    ],
)
def test_what_was_compared_is_the_whole_run(runs: tuple[Path, Path], pattern: str, least: int) -> None:
    assert len([name for name in files(runs[0]) if Path(name).match(pattern)]) >= least


def test_the_logs_of_the_training_agree_but_for_the_speed(runs: tuple[Path, Path]) -> None:
    told: list[list[dict[str, float]]] = []
    for run in runs:
        lines = [line for path in sorted(run.glob("round-*/training/*/log.jsonl")) for line in path.read_text().splitlines()]
        told.append([{name: value for name, value in json.loads(line).items() if name != "pairs_per_s"} for line in lines])
    assert told[0] == told[1] != []


def test_the_pool_is_the_one_that_was_pinned(runs: tuple[Path, Path]) -> None:
    paths = sorted((runs[0] / "pool").glob("chunk-*.parquet"))
    table = pa.concat_tables(pq.read_table(path, columns=["row_id", *PINNED]) for path in paths).sort_by("url")
    found = {name: sha256(json.dumps(table[name].to_pylist()).encode()).hexdigest() for name in PINNED}
    wanted = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert found == wanted, (
        "the small web, the screen rules or the words of an error have changed. If that is wanted (and `capfilt.miniweb.build."
        f"VERSION` is raised where the web has changed), write this into {GOLDEN.name}:\n{json.dumps(found, indent=2)}"
    )
