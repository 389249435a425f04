"""The executor is not part of the result: on Ray, pipelines/debug.yaml writes the bytes that it writes in this process.

Starts Ray once, with four logical CPUs; the longest test of all (most of it is Ray's start).
"""

from hashlib import sha256
from pathlib import Path

import pytest

from capfilt.config.load import load_pipeline
from capfilt.rounds import run_pipeline
from capfilt.run.progress import SilentProgress

pytestmark = pytest.mark.slow
COMPARED = (
    "pool",
    "round-0/models",
    "round-0/metrics.json",
    *(f"round-1/{name}" for name in ("candidates", "dedup", "selection", "dataset")),
)


def hashes(run: Path) -> dict[str, str]:
    paths = [path for name in COMPARED for path in (run / name, *(run / name).rglob("*")) if path.is_file()]
    return {str(path.relative_to(run)): sha256(path.read_bytes()).hexdigest() for path in paths}


def test_ray_and_this_process_write_the_same_bytes(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = hashes(finished)
    for folder, least in {"pool": 4, "round-0/models": 9, "round-1/candidates": 4, "round-1/dataset": 5}.items():
        assert len([name for name in local if name.startswith(folder)]) >= least
    monkeypatch.chdir(tmp_path)
    # Nor are the number of actors and the size of a wave.
    operational = ["executor=ray", "ray.logical_cpus=4", "chunks_per_wave=3", "download.actors=2", "caption.actors=2"]
    pipeline = load_pipeline("debug", [f"resources.{setting}" for setting in operational])
    result = run_pipeline(pipeline, source=Path("debug.yaml"), until="write", progress=SilentProgress())
    assert result.left_out == 0
    assert hashes(tmp_path / "runs" / "debug") == local
