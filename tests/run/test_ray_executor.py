"""Ray gives the local executor's bytes, survives chunks that raise and kill, and says nothing. One Ray start for all of it."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.config.load import load_text
from capfilt.config.pipeline import Pipeline
from capfilt.plan import Chunk, make_chunks
from capfilt.run.build import Job
from capfilt.run.index import scan
from capfilt.run.local_executor import LocalExecutor

CHILD = """
import json, pickle, sys
from dataclasses import asdict
from pathlib import Path
from capfilt.run.ray_executor import RayExecutor

jobs = pickle.loads(Path(sys.argv[1]).read_bytes())
executor = RayExecutor(jobs[0][0].pipeline.resources, jobs[0][0].pipeline.output)
executor.start()
told = [[asdict(outcome) for outcome in executor.run(job, chunks)] for job, chunks in jobs]
executor.close()
print(json.dumps(told))
print("the end", file=sys.stderr)
"""


@dataclass(frozen=True)
class RayRun:
    """What the child process left: its folder, its output, and the outcomes of calm, rough and fused candidates and a pool."""

    folder: Path
    stdout: str
    stderr: str

    @property
    def told(self) -> list[list[dict[str, Any]]]:
        told: list[list[dict[str, Any]]] = json.loads(self.stdout)
        return told


def pool_job(folder: Path) -> tuple[Job, list[Chunk]]:
    """Addresses that are refused before anything is sent."""
    web = folder / "refused.parquet"
    if not web.exists():
        pq.write_table(pa.table({"url": [f"http://127.0.0.1:9/{i}" for i in range(6)], "text": ["t"] * 6}), web)
    text = "version: 1\nname: p\noutput: {}\nread: {{paths: [{}], rows_per_chunk: 2}}\nresources: {{ray: {{logical_cpus: 4}}}}"
    pipeline = load_text(text.format(folder / "pool-run", web))
    return Job("pool", pipeline, "f"), list(make_chunks(pipeline.read, scan(pipeline.read)))


@pytest.fixture(scope="module")
def ray_run(
    tmp_path_factory: pytest.TempPathFactory,
    fakes: Path,
    pipeline_of: Callable[..., Pipeline],
    make_pool: Callable[[Path], list[Chunk]],
    med_folder: Path,
    med_pipeline: Callable[..., Pipeline],
    twin: Callable[..., Path],
) -> RayRun:
    folder = tmp_path_factory.mktemp("ray")
    calm = Job("candidates", pipeline_of(folder / "calm"), "fp", 1)
    rough = Job("candidates", pipeline_of(folder / "rough", options="{boom: 40, die: 100}"), "fp", 1)
    models = med_pipeline(output=folder / "fused", captioner=med_folder, scorer=twin("text_", "itm_head"))
    fused = Job("candidates", models, "fp", 1, fused=True)
    jobs = [(calm, make_pool(folder / "calm")), (rough, make_pool(folder / "rough")), pool_job(folder)]
    jobs.append((fused, make_pool(folder / "fused")))
    (folder / "jobs.pickle").write_bytes(pickle.dumps(jobs))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(fakes), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder / "jobs.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return RayRun(folder, done.stdout, done.stderr)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("chunk-*"))}


def test_nothing_but_ours_reaches_the_terminal(ray_run: RayRun) -> None:
    assert ray_run.stderr == "the end\n"
    assert len(ray_run.stdout.splitlines()) == 1


def test_ray_and_local_candidates_are_byte_identical(
    ray_run: RayRun,
    tmp_path: Path,
    no_torch: None,
    pipeline_of: Callable[..., Pipeline],
    make_pool: Callable[[Path], list[Chunk]],
) -> None:
    chunks = make_pool(tmp_path)
    local = list(LocalExecutor().run(Job("candidates", pipeline_of(tmp_path), "fp", 1), chunks))
    here, there = bytes_of(tmp_path / "round-1" / "candidates"), bytes_of(ray_run.folder / "calm" / "round-1" / "candidates")
    assert len(here) == 5
    assert here == there
    assert {(o.chunk_id, o.rows) for o in local} == {(o["chunk_id"], o["rows"]) for o in ray_run.told[0]}


def test_caption_and_filter_as_one_on_ray_give_the_bytes_of_two_stages_in_this_process(
    ray_run: RayRun,
    tmp_path: Path,
    med_folder: Path,
    med_pipeline: Callable[..., Pipeline],
    twin: Callable[..., Path],
    make_pool: Callable[[Path], list[Chunk]],
) -> None:
    models = med_pipeline(output=tmp_path, captioner=med_folder, scorer=twin("text_", "itm_head"))
    list(LocalExecutor().run(Job("candidates", models, "fp", 1), make_pool(tmp_path)))
    here, there = bytes_of(tmp_path / "round-1" / "candidates"), bytes_of(ray_run.folder / "fused" / "round-1" / "candidates")
    assert len(here) == 5
    assert here == there
    assert {outcome["stage"] for outcome in ray_run.told[3]} == {"filter"}


def test_a_chunk_that_raises_and_one_that_kills_its_process_are_outcomes_and_the_others_are_done(ray_run: RayRun) -> None:
    failed = {outcome["chunk_id"]: outcome for outcome in ray_run.told[1] if outcome["error"]}
    assert sorted(failed) == ["0000000000000001", "0000000000000003"]
    assert failed["0000000000000001"]["error"].startswith("RuntimeError: boom")
    assert "its process died 3 time(s)" in failed["0000000000000003"]["error"]
    assert failed["0000000000000001"]["at"] == "row 0000000000000001-000001"
    assert failed["0000000000000003"]["at"] == "rows 0000000000000003-000000 to 0000000000000003-000001"
    calm = bytes_of(ray_run.folder / "calm" / "round-1" / "candidates")
    rough = bytes_of(ray_run.folder / "rough" / "round-1" / "candidates")
    assert sorted(rough) == [f"chunk-{number:016x}.parquet" for number in (0, 2, 4)]
    assert rough.items() <= calm.items()


def test_ray_and_local_pools_are_byte_identical(ray_run: RayRun, tmp_path: Path) -> None:
    job, chunks = pool_job(ray_run.folder)
    there = bytes_of(ray_run.folder / "pool-run" / "pool")
    assert [outcome["counts"] for outcome in ray_run.told[2]] == [{"download_failed": 2}] * 3
    for path in (ray_run.folder / "pool-run" / "pool").iterdir():
        path.unlink()
    list(LocalExecutor().run(job, chunks))
    assert bytes_of(ray_run.folder / "pool-run" / "pool") == there


def test_noise_goes_to_the_log_and_python_keeps_the_terminal(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom capfilt.run.noise import Noise\n"
        f"noise = Noise({str(tmp_path)!r})\nnoise.put_aside()\nos.write(2, b'noise\\n')\nprint('told', file=sys.stderr)\n"
        "noise.bring_back()\nos.write(2, b'after\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "told\nafter\n"
    assert (tmp_path / "events" / "ray.log").read_text() == "noise\n"


def test_an_actor_works_where_the_driver_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from capfilt.run.ray_executor import _Actor

    monkeypatch.chdir("/")
    _Actor(str(tmp_path / "not there"))
    assert os.getcwd() == "/"
    _Actor(str(tmp_path))
    assert os.getcwd() == str(tmp_path)
