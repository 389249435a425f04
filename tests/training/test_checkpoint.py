import subprocess
import sys

import pytest
import torch

from capfilt.errors import CheckpointError
from capfilt.training.checkpoint import Checkpoints


def test_the_newest_is_read_and_only_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", "mark")
    assert checkpoints.load() is None
    for step in (2, 4, 10):
        checkpoints.save(step, {"weights": torch.full((3,), float(step))})
    state = checkpoints.load()
    assert state["step"] == 10
    assert state["weights"].tolist() == [10.0] * 3
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000004.pt", "step-00000010.pt"]


def test_a_damaged_newest_one_gives_way_to_the_one_before(tmp_path):
    checkpoints = Checkpoints(tmp_path, "mark")
    checkpoints.save(1, {"x": 1})
    checkpoints.save(2, {"x": 2})
    newest = tmp_path / "step-00000002.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    assert checkpoints.load()["x"] == 1
    (tmp_path / "step-00000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="begin this training again"):
        checkpoints.load()


def test_a_half_written_file_is_never_read(tmp_path):
    (tmp_path / "step-00000009.part").write_bytes(b"half")
    assert Checkpoints(tmp_path).load() is None


def test_checkpoints_of_another_training_are_passed_over(tmp_path):
    Checkpoints(tmp_path, "old").save(5, {})
    assert Checkpoints(tmp_path, "new").load() is None
    assert Checkpoints(tmp_path, "old").load() is not None


class _Bomb:
    def __reduce__(self):
        return (print, ("run",))


def test_a_checkpoint_can_run_no_code(tmp_path, capsys):
    torch.save({"step": 1, "mark": "", "bomb": _Bomb()}, tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError):
        Checkpoints(tmp_path).load()
    assert capsys.readouterr().out == ""


def test_removing_leaves_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(1, {})
    checkpoints.remove()
    checkpoints.remove()
    assert not (tmp_path / "c").exists()


def test_on_a_full_disk_no_half_checkpoint_keeps_the_room(tmp_path):
    code = (
        "import resource, torch\nfrom pathlib import Path\n"
        "from capfilt.run import files\nfrom capfilt.errors import OutputError\n"
        "from capfilt.training.checkpoint import Checkpoints\n"
        f"folder = Path({str(tmp_path)!r})\ncheckpoints = Checkpoints(folder)\n"
        "checkpoints.save(1, {'x': torch.zeros(2)})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n    with files.writing(str(folder)):\n        checkpoints.save(2, {'x': torch.zeros(10000)})\n"
        "except OutputError as told:\n    print(told)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "expected room to write" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    assert Checkpoints(tmp_path).load()["step"] == 1


def test_what_a_kill_left_half_written_goes_with_the_next_one(tmp_path):
    (tmp_path / "step-00000009.part").write_bytes(b"half")
    Checkpoints(tmp_path).save(10, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010.pt"]
