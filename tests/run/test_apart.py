"""Chunks that were at work when a local run was killed: tried in processes of their own, and set aside where those die too."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from capfilt.config.pipeline import Pipeline
from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.apart import MARK, Apart
from capfilt.run.attempts import marks_folder
from capfilt.run.build import Job
from capfilt.run.local_executor import LocalExecutor
from capfilt.run.work import Outcome

SUSPECT = "0000000000000003"  # the chunk with the shade 100
DRIVER = """
import json, pickle, resource, sys
from dataclasses import asdict
from pathlib import Path
from capfilt.run.local_executor import LocalExecutor

for outcome in LocalExecutor().run(*pickle.loads(Path(sys.argv[1]).read_bytes())):
    print(json.dumps(asdict(outcome)), flush=True)
    if len(sys.argv) > 2:  # pages in use, and so many MiB more
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (int(sys.argv[2]) << 20),) * 2)
        sys.argv = sys.argv[:2]
"""


@pytest.fixture
def no_torch_anywhere(no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in other processes either."""
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "torch.py").write_text(
        "def set_num_threads(threads): pass\ndef get_num_threads(): return 1\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "stub"))


@pytest.fixture
def job_of(
    no_torch_anywhere: None, tmp_path: Path, pipeline_of: Callable[..., Pipeline], make_pool: Callable[[Path], list[Chunk]]
) -> Callable[[str], tuple[Job, list[Chunk]]]:
    def make(options: str) -> tuple[Job, list[Chunk]]:
        return Job("candidates", pipeline_of(tmp_path / "run", options=options), "f", 1), make_pool(tmp_path / "run")

    return make


def drive(folder: Path, job: Job, chunks: list[Chunk], *limit: str) -> tuple[int, list[Outcome]]:
    """Exit code of a driver of its own, and what it told of each chunk."""
    (folder / "job.pickle").write_bytes(pickle.dumps((job, chunks)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRIVER, str(folder / "job.pickle"), *limit]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]


def mark_of(job: Job) -> str:
    return files.join(marks_folder(job), SUSPECT + MARK)


def bytes_of(job: Job) -> dict[str, bytes]:
    return {path: files.get(path) or b"" for path in files.listing(job.folder, "chunk-")}


def test_a_chunk_that_kills_the_run_leaves_its_mark(job_of: Callable[[str], tuple[Job, list[Chunk]]], tmp_path: Path) -> None:
    job, chunks = job_of("{die: 100}")
    code, told = drive(tmp_path, job, chunks)
    assert (code, [outcome.chunk_id for outcome in told]) == (-9, [chunk.chunk_id for chunk in chunks[:3]])
    assert files.listing(marks_folder(job)) == [mark_of(job)]
    assert Apart(job).suspects == {SUSPECT}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_a_chunk_for_which_memory_is_really_out_is_set_aside_and_the_others_go_on(
    job_of: Callable[[str], tuple[Job, list[Chunk]]], tmp_path: Path
) -> None:
    code, told = drive(tmp_path, *job_of("{hog: 100}"), "1024")
    assert (code, len(told)) == (0, 5)
    (failed,) = (outcome for outcome in told if outcome.error is not None)
    assert (failed.chunk_id, failed.attempts, failed.at) == (SUSPECT, 3, f"row {SUSPECT}-000001")
    assert (failed.error or "").startswith("MemoryError: Unable to allocate 4.00 GiB")


def test_a_suspect_that_kills_its_own_process_too_is_set_aside_and_the_others_go_on(
    job_of: Callable[[str], tuple[Job, list[Chunk]]],
) -> None:
    job, chunks = job_of("{die: 100}")
    resources = job.pipeline.resources.model_copy(update={"retries_per_chunk": 1})
    job = replace(job, pipeline=job.pipeline.model_copy(update={"resources": resources}))
    files.create(mark_of(job), b"")
    first, *others = LocalExecutor().run(job, chunks)
    assert (first.chunk_id, first.stage, first.attempts) == (SUSPECT, "caption", 2)
    assert first.error == "its process died 2 time(s) (killed, or out of memory)"
    assert first.at == f"rows {SUSPECT}-000000 to {SUSPECT}-000001"
    assert [outcome.error for outcome in others] == [None] * 4
    assert Apart(job).suspects == {SUSPECT}, "so that `capfilt retry` is not killed by it"


def test_a_suspect_that_was_not_to_blame_gives_the_same_bytes(job_of: Callable[[str], tuple[Job, list[Chunk]]]) -> None:
    job, chunks = job_of("{}")
    calm = [outcome.chunk_id for outcome in LocalExecutor().run(job, chunks)]
    wanted = bytes_of(job)
    files.remove(job.folder)
    files.create(mark_of(job), b"")
    files.put_json(files.join(marks_folder(job), f"{SUSPECT}-caption"), {"begun": 9, "at": None})  # of a start that was killed
    outcomes = list(LocalExecutor().run(job, chunks))
    assert [outcome.chunk_id for outcome in outcomes] == sorted(calm, key=lambda name: name != SUSPECT)
    assert [outcome.error for outcome in outcomes] == [None] * 5
    assert bytes_of(job) == wanted
    assert not files.exists(marks_folder(job))


def test_what_only_raises_leaves_no_mark(tmp_path: Path, pipeline_of: Callable[..., Pipeline]) -> None:
    job = Job("pool", pipeline_of(tmp_path), "f")
    apart, chunk = Apart(job), Chunk(SUSPECT, "web.parquet", "e", 0, 0, 4, 0)
    seen: list[bool] = []

    def stopped(chunk: Chunk) -> Outcome:
        seen.append(files.exists(mark_of(job)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apart.run(chunk, stopped)
    assert (seen, files.listing(marks_folder(job))) == ([True], [])


def test_a_suspect_of_the_pool_is_read_in_its_own_process(
    tmp_path: Path, pipeline_of: Callable[..., Pipeline], web: Path
) -> None:
    job = Job("pool", pipeline_of(tmp_path / "run").model_copy(update={"output": str(tmp_path / "run")}), "f")
    chunk = Chunk(SUSPECT, str(tmp_path / "gone.parquet"), "e", 0, 0, 4, 0)
    files.create(mark_of(job), b"")
    (outcome,) = LocalExecutor().run(job, [chunk])
    assert (outcome.fatal, files.listing(marks_folder(job))) == ("InputError", [])
    assert "gone.parquet" in (outcome.error or "")
