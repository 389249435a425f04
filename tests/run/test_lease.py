import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from capfilt.errors import LeaseError, OutputError
from capfilt.run import files
from capfilt.run.lease import Lease


def write(folder: Path, **holder: object) -> None:
    (folder / "lease.json").write_text(json.dumps(holder))


def test_a_second_driver_is_refused_while_the_first_works(tmp_path: Path) -> None:
    with (
        Lease(str(tmp_path)),
        pytest.raises(LeaseError, match=f"found process {os.getpid()} on .* at work"),
        Lease(str(tmp_path)),
    ):
        pass


def test_the_lease_is_given_back(tmp_path: Path) -> None:
    with Lease(str(tmp_path)):
        assert (tmp_path / "lease.json").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_driver_that_died_here_gives_up_its_lease_at_once(tmp_path: Path) -> None:
    code = f"import os\nfrom capfilt.run.lease import Lease\nLease({str(tmp_path)!r}).__enter__()\nos._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "lease.json").exists()
    with Lease(str(tmp_path)):
        assert json.loads((tmp_path / "lease.json").read_text())["pid"] == os.getpid()


def test_a_driver_elsewhere_expires_when_its_heart_stops(tmp_path: Path) -> None:
    write(tmp_path, token="t", host="elsewhere", pid=1, boot="b", beat=time.time())
    with pytest.raises(LeaseError, match="on elsewhere"), Lease(str(tmp_path)):
        pass
    write(tmp_path, token="t", host="elsewhere", pid=1, boot="b", beat=time.time() - 31)
    with Lease(str(tmp_path), beat_s=0.02):
        pass


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_wrong_makes_nobody_dead(tmp_path: Path, hours: int) -> None:
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(0.01):
            files.put_json(str(tmp_path / "lease.json"), {"host": "elsewhere", "pid": 1, "beat": time.time() + 3600 * hours})

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        while not (tmp_path / "lease.json").exists():
            time.sleep(0.01)
        with pytest.raises(LeaseError), Lease(str(tmp_path), beat_s=0.1):
            pass
    finally:
        stopped.set()
        heart.join()


def test_another_process_with_the_dead_drivers_number_does_not_keep_its_lease(tmp_path: Path) -> None:
    with Lease(str(tmp_path)):
        told = json.loads((tmp_path / "lease.json").read_text())
    write(tmp_path, **{**told, "token": "of the driver before the container's restart", "started": "1"})
    with Lease(str(tmp_path)):
        pass


def test_a_number_in_another_container_says_nothing(tmp_path: Path) -> None:
    with Lease(str(tmp_path)):
        told = json.loads((tmp_path / "lease.json").read_text())
    write(tmp_path, **{**told, "processes": "pid:[1]", "pid": 2**22 + 1, "beat": time.time()})
    with pytest.raises(LeaseError), Lease(str(tmp_path)):
        pass


@pytest.mark.parametrize("folder", ["local", "memory://capfilt-lease/run"])
def test_who_lost_the_lease_is_stopped_and_leaves_the_others_alone(tmp_path: Path, folder: str) -> None:
    place = folder if "://" in folder else str(tmp_path)
    lease = Lease(place, beat_s=0.02)

    def taken_over() -> None:
        with lease:
            files.put_json(files.join(place, "lease.json"), {"token": "other"})
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        taken_over()
    assert lease.is_lost
    assert files.get_json(files.join(place, "lease.json")) == {"token": "other"}
    files.remove(files.join(place, "lease.json"))


def test_on_an_object_store_the_second_driver_is_refused_and_a_dead_ones_lease_taken() -> None:
    place = "memory://capfilt-lease/two"
    with Lease(place), pytest.raises(LeaseError), Lease(place):
        pass
    assert files.listing(place) == []
    files.put_json(files.join(place, "lease.json"), {"token": "t", "host": "elsewhere", "pid": 1, "beat": time.time() - 60})
    with Lease(place, beat_s=0.02):
        assert files.get_json(files.join(place, "lease.json"))["pid"] == os.getpid()


@pytest.mark.parametrize("problem", [OutputError("no room"), RuntimeError("a store's own error")])
def test_a_heart_that_cannot_write_beats_on(problem: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str, value: object) -> None:
        raise problem

    with Lease(str(tmp_path), beat_s=0.02):
        with monkeypatch.context() as patch:
            patch.setattr(files, "put_json", fails)
            time.sleep(0.1)
        first = json.loads((tmp_path / "lease.json").read_text())["beat"]
        time.sleep(0.3)
        assert json.loads((tmp_path / "lease.json").read_text())["beat"] > first


def test_the_heart_beats_while_the_driver_computes(tmp_path: Path) -> None:
    with Lease(str(tmp_path), beat_s=0.02):
        first = json.loads((tmp_path / "lease.json").read_text())["beat"]
        deadline = time.monotonic() + 5
        while json.loads((tmp_path / "lease.json").read_text())["beat"] == first:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_cut_lease_file_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text('{"tok')
    with Lease(str(tmp_path)):
        pass
