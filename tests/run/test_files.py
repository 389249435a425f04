import os
from pathlib import Path

import pytest

from capfilt.run import files


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    files.put(str(tmp_path / "a" / "x.bin"), b"new")
    files.put(str(tmp_path / "a" / "x.bin"), b"newer")
    assert os.listdir(tmp_path / "a") == ["x.bin"]
    assert files.get(str(tmp_path / "a" / "x.bin")) == b"newer"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    files.put(str(path), b"old")

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.put(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("folder", ["local", "memory://capfilt-changed"])
def test_only_a_changed_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    path = files.join(folder if "://" in folder else str(tmp_path), "x.bin")
    written: list[bytes] = []
    put = files.put
    monkeypatch.setattr(files, "put", lambda path, data: (written.append(bytes(data)), put(path, data)))
    for data in (b"one", memoryview(b"one"), b"two", b"one"):
        files.put_changed(path, data)
        assert files.get(path) == data
    assert written == [b"one", b"two", b"one"]


def test_remote_folders_answer_like_local_ones(tmp_path: Path) -> None:
    for folder in (str(tmp_path / "run"), "memory://capfilt-files/run"):
        files.put(files.join(folder, "a.json"), b"[1]")
        files.put(files.join(folder, "b", "c.txt"), b"x")
        assert files.get_json(files.join(folder, "a.json")) == [1]
        assert files.listing(folder, "a", ".json") == [files.join(folder, "a.json")]
        assert files.exists(files.join(folder, "b"))
        files.remove(files.join(folder, "b"))
        assert files.get(files.join(folder, "b", "c.txt")) is None
        files.append_line(folder, "phases", {"n": 1})
        files.append_line(folder, "phases", {"n": 2})
        assert list(files.lines(folder, "phases")) == [{"n": 1}, {"n": 2}]


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    files.append_line(str(tmp_path), "phases", {"n": 1})
    with (tmp_path / "events" / "phases.jsonl").open("a") as file:
        file.write('{"n": 2')
    assert list(files.lines(str(tmp_path), "phases")) == [{"n": 1}]


def test_what_is_not_there_is_none_and_removing_it_is_no_error(tmp_path: Path) -> None:
    assert files.get(str(tmp_path / "no")) is None
    assert files.get_json(str(tmp_path / "no")) is None
    assert files.listing(str(tmp_path / "no")) == []
    files.remove(str(tmp_path / "no"))
