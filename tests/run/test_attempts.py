import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from capfilt.config.pipeline import Pipeline
from capfilt.run import files
from capfilt.run.attempts import Attempts, marks_folder
from capfilt.run.build import Job
from capfilt.run.work import Outcome


@pytest.fixture
def job(tmp_path: Path, pipeline_of: Callable[..., Pipeline]) -> Job:
    return Job("pool", pipeline_of(tmp_path), "f")


def test_work_that_ends_leaves_no_mark(job: Job) -> None:
    attempts = Attempts(job, "download")
    assert attempts.run("c", lambda: "done") == "done"
    with pytest.raises(ValueError, match="x"):
        attempts.run("c", lambda: int("x"))
    assert files.listing(marks_folder(job)) == []


def test_a_chunk_begun_too_often_is_not_begun_again(job: Job) -> None:
    mark = files.join(marks_folder(job), "c-download")
    files.put(mark, b"2")
    assert Attempts(job, "download").run("c", lambda: "done") == "done"
    files.put(mark, b"3")  # 1 + retries_per_chunk
    told = Attempts(job, "download").run("c", lambda: "done")
    assert isinstance(told, Outcome)
    assert "its process died 3 time(s)" in (told.error or "")


def test_a_chunk_that_was_begun_before_runs_alone(job: Job) -> None:
    files.put(files.join(marks_folder(job), "suspect-download"), b"1")
    attempts = Attempts(job, "download")
    inside: set[str] = set()
    seen: dict[str, set[str]] = {}
    first_is_in, first_may_go = threading.Event(), threading.Event()

    def work(name: str) -> None:
        inside.add(name)
        seen[name] = set(inside)
        if name == "first":
            first_is_in.set()
            first_may_go.wait(5)
        inside.discard(name)

    def begin(name: str) -> threading.Thread:
        thread = threading.Thread(target=attempts.run, args=(name, lambda: work(name)))
        thread.start()
        return thread

    threads = [begin("first")]
    assert first_is_in.wait(5)
    threads += [begin("suspect"), begin("second")]
    first_may_go.set()
    for thread in threads:
        thread.join(5)
    assert seen["suspect"] == {"suspect"}
    assert "suspect" not in seen["second"]
