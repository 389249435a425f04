"""Ray's start: tried a second time on this machine, with a word to the user; no Ray is needed for that."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from capfilt.config.machine import RayConfig, Resources
from capfilt.errors import CapfiltError
from capfilt.run import ray_executor
from capfilt.run.ray_executor import RayExecutor

SLOW = "The current node timed out during startup."


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """`tries(2)`: Ray comes up at the third start. Gives the list of the threads that tried."""

    def make(failing: int) -> list[int]:
        threads: list[int] = []

        def start(resources: Resources) -> bool:
            threads.append(threading.get_ident())
            if len(threads) <= failing:
                raise RuntimeError(f"a traceback of Ray's\n{SLOW}")
            return False

        monkeypatch.setattr(ray_executor, "_init", start)
        return threads

    return make


def executor(tmp_path: Path, notes: list[str], address: str = "local") -> RayExecutor:
    return RayExecutor(Resources(executor="ray", ray=RayConfig(address=address)), str(tmp_path), notes.append)


def test_a_start_that_timed_out_is_tried_again_and_told(tmp_path: Path, tries: Callable[[int], list[int]]) -> None:
    threads, notes = tries(1), list[str]()
    one = executor(tmp_path, notes)
    one.wait()
    assert notes == [f"Ray did not start ({SLOW}); trying again"]
    assert len(threads) == 2
    one.close()


def test_what_a_failed_start_began_ends_with_its_thread(
    tmp_path: Path, tries: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = tries(1)
    alive: list[bool] = []

    def note(text: str) -> None:
        alive.append(threads[0] in {thread.ident for thread in threading.enumerate()})

    one = executor(tmp_path, [])
    monkeypatch.setattr(one, "_note", note)
    one.wait()
    assert alive == [False]
    one.close()


def test_a_second_failure_ends_the_run_with_what_to_do(tmp_path: Path, tries: Callable[[int], list[int]]) -> None:
    threads, notes = tries(9), list[str]()
    one = executor(tmp_path, notes)
    with pytest.raises(CapfiltError, match=rf"expected Ray to start, found: {SLOW}.*resources.executor: local"):
        one.wait()
    assert (len(threads), len(notes)) == (2, 1)
    one.close()


def test_a_cluster_that_does_not_answer_is_asked_once(tmp_path: Path, tries: Callable[[int], list[int]]) -> None:
    threads, notes = tries(9), list[str]()
    one = executor(tmp_path, notes, address="auto")
    with pytest.raises(CapfiltError, match="expected Ray to start"):
        one.wait()
    assert (len(threads), notes) == (1, [])
    one.close()


def test_a_run_that_is_stopped_meanwhile_does_not_try_again(
    tmp_path: Path, tries: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, begun, may_fail = tries(9), threading.Event(), threading.Event()
    start = ray_executor._init

    def slow(resources: Resources) -> bool:
        begun.set()
        may_fail.wait(10)
        return start(resources)

    monkeypatch.setattr(ray_executor, "_init", slow)
    one = executor(tmp_path, [])
    one.start()
    begun.wait(10)
    one._may_go.set()
    may_fail.set()
    one.close()
    assert len(threads) == 1
