import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from capfilt.errors import InputError, OutputError
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


def test_a_stores_empty_object_of_a_folders_name_is_no_file_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fsspec.filesystem("memory")
    monkeypatch.setattr(type(store), "ls", lambda self, path, detail: [f"{path}/", f"{path}/a.json", f"{path}/run/"])
    assert files.listing("memory://bucket/run") == ["memory://bucket/run/a.json", "memory://bucket/run/run"]


def test_what_a_store_has_listed_before_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have written since (s3fs keeps listings; the store here keeps them by hand)."""
    kept: dict[str, list[str]] = {}
    store = type(fsspec.filesystem("memory"))
    ls = store.ls
    monkeypatch.setattr(store, "ls", lambda self, path, detail: kept.setdefault(path, ls(self, path, detail=detail)))
    monkeypatch.setattr(store, "invalidate_cache", lambda self, path=None: kept.clear())
    folder = f"memory://{uuid4().hex}"
    files.put(f"{folder}/a", b"1")
    assert files.listing(folder) == [f"{folder}/a"]
    fsspec.filesystem("memory").pipe_file(f"{folder.removeprefix('memory:/')}/b", b"2")
    assert files.listing(folder) == [f"{folder}/a", f"{folder}/b"]


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


# ── a disk that takes no more ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"), (errno.EROFS, "permissions"), (errno.EACCES, "permissions")],
)
def test_what_the_disk_refuses_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=f"x.bin: expected .*{advice}") as told:
        files.put(str(tmp_path / "x.bin"), b"new")
    assert told.value.exit_code == 2
    assert os.listdir(tmp_path) == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files is the full disk that needs no administrator."""
    code = (
        "import resource\nfrom capfilt.run import files\nfrom capfilt.errors import InputError, OutputError\n"
        f"path = {str(tmp_path / 'x.bin')!r}\nfiles.put(path, b'o' * 1000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try:\n    files.put(path, b'n' * 10000)\nexcept OutputError as told:\n    print(told)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "expected room to write" in done.stdout
    assert (tmp_path / "x.bin").read_bytes() == b"o" * 1000
    assert os.listdir(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("writer", [files.put, files.create], ids=["put", "create"])
@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("{tmp}/taken", "a file at `{tmp}/taken`"),
        ("{tmp}/taken/below", "a file at `{tmp}/taken`"),
        ("{tmp}/dangling", "a link to nothing at `{tmp}/dangling`"),
        ("{tmp}/loop/below", "a link to nothing at `{tmp}/loop`"),
        ("{tmp}/" + "a" * 300, "File name too long"),
        pytest.param("/proc/x/y", "No such file", marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")),
    ],
)
def test_an_output_where_no_folder_can_be_made_is_told(
    tmp_path: Path, output: str, found: str, writer: Callable[[str, bytes], object]
) -> None:
    (tmp_path / "taken").write_bytes(b"")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone" / "x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = files.join(output.format(tmp=tmp_path), "lease.json")
    assert files.get(path) is None
    assert not files.exists(path)
    assert files.listing(output.format(tmp=tmp_path)) == []
    with pytest.raises(OutputError, match=r"expected a folder.* Name another `output`") as told:
        writer(path, b"new")
    assert found.format(tmp=tmp_path) in str(told.value)


def test_a_missing_file_is_not_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.writing(str(tmp_path / "x.bin")):
        (tmp_path / "source.bin").read_bytes()


def test_what_is_forbidden_elsewhere_is_not_the_outputs_fault(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), files.writing(str(tmp_path / "run"), inside=True):
        raise PermissionError(errno.EACCES, "no", str(tmp_path / "input.parquet"))
    with pytest.raises(OutputError), files.writing(str(tmp_path / "run"), inside=True):
        raise PermissionError(errno.EACCES, "no", str(tmp_path / "run" / "log.jsonl"))


@pytest.mark.parametrize("ask", [files.exists, files.get, files.listing])
def test_an_address_of_no_known_store_is_told(ask: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match=r"s3x://bucket/x: expected a path or an address that fsspec knows.*s3x"):
        ask("s3x://bucket/x")


@pytest.mark.parametrize("folder", ["local", "memory://capfilt-create"])
def test_only_one_creates(tmp_path: Path, folder: str) -> None:
    path = files.join(folder if "://" in folder else str(tmp_path), "lease.json")
    assert files.create(path, b"mine")
    assert not files.create(path, b"theirs")
    assert files.get(path) == b"mine"
    files.remove(path)


def test_sweeping_takes_what_killed_writers_left_and_nothing_else(tmp_path: Path) -> None:
    left = [".chunk-1.parquet.12-140.part", f".lease-{'0' * 32}", ".web.parquet.99"]
    kept = [".gitignore", ".old", ".notes.part", "chunk-1.parquet", "report.part"]
    for name in left + kept:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".captioner.part").mkdir()
    (tmp_path / ".captioner.part" / "model.safetensors").write_bytes(b"half")
    files.sweep(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
