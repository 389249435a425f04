import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capfilt.errors import LeaseError
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
    with Lease(str(tmp_path)):
        pass


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
