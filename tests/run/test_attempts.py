import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from capfilt.config.pipeline import Pipeline
from capfilt.run import files
from capfilt.run.attempts import Attempts, marks_folder
from capfilt.run.build import Job
from capfilt.run.work import Outcome
from capfilt.stages.base import at_work


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
    files.put_json(mark, {"begun": 2, "at": None})
    assert Attempts(job, "download").run("c", lambda: "done") == "done"
    files.put_json(mark, {"begun": 3, "at": "row c-000004"})  # 1 + retries_per_chunk
    told = Attempts(job, "download").run("c", lambda: "done")
    assert isinstance(told, Outcome)
    assert "its process died 3 time(s)" in (told.error or "")
    assert told.at == "row c-000004"


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs, the mark stays as it is."""


def test_the_rows_a_suspect_was_at_outlive_its_process(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = files.join(marks_folder(job), "c-caption")
    kept: list[object] = []

    def work() -> None:
        at_work(["c-000000", "c-000001"])
        at_work(["c-000002", "c-000003"])
        kept.append(files.get_json(mark))
        raise Killed

    monkeypatch.setattr("capfilt.run.attempts.files.remove", lambda path: None)
    for _ in range(3):
        with pytest.raises(Killed):
            Attempts(job, "caption").run("c", work)
    assert kept[0] == {"begun": 1, "at": None}, "a chunk nobody suspects writes no file per batch"
    assert kept[1] == {"begun": 2, "at": "rows c-000002 to c-000003"}
    told = Attempts(job, "caption").run("c", work)
    assert isinstance(told, Outcome)
    assert (told.attempts, told.at) == (3, "rows c-000002 to c-000003")


def test_a_chunk_that_was_begun_before_runs_alone(job: Job) -> None:
    files.put_json(files.join(marks_folder(job), "suspect-download"), {"begun": 1, "at": None})
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
