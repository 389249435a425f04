"""The signals of `capfilt run`, in a process of its own."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# Short sleeps: Python may miss a signal that comes just before it begins to sleep, until it wakes.
CHILD = """
import sys, time
from capfilt.run.signals import Stopped, orderly

def rest():
    for _ in range(600):
        time.sleep(0.05)

try:
    with orderly():
        try:
            print("ready", flush=True)
            rest()
        finally:
            if sys.argv[1:] == ["slow"]:
                print("tidying", flush=True)
                rest()
except Stopped as stop:
    print("stopped by", stop.number, flush=True)
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """Started as a shell starts its background jobs: SIGINT ignored."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = subprocess.Popen([sys.executable, "-c", CHILD, "slow"], stdout=subprocess.PIPE, text=True, preexec_fn=ignore)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_first_signal_is_told_where_it_comes_from() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == f"stopped by {number.value}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_ends_the_process_at_once(child: subprocess.Popen[str], number: signal.Signals) -> None:
    assert child.stdout is not None
    child.send_signal(signal.SIGINT)
    assert child.stdout.readline() == "tidying\n"
    began = time.monotonic()
    child.send_signal(number)
    assert child.wait(timeout=20) == 128 + number
    assert time.monotonic() - began < 10


def test_the_handlers_found_are_put_back() -> None:
    from capfilt.run.signals import orderly

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with orderly():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_small_web_ends_with_its_driver(tmp_path: Path) -> None:
    """Killed without a word, the driver leaves no server behind."""
    code = f"""
import os, pathlib
from capfilt.config.miniweb import MiniwebConfig
from capfilt.miniweb.server import MiniwebServer
config = MiniwebConfig(pictures=4, human_pairs=1, heldout_pairs=1)
server = MiniwebServer(config, pathlib.Path({str(tmp_path)!r}), 0)
server.start()
print(server._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False)
    server = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 20
    while server.exists() and server.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
