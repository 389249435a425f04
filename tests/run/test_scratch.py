"""What a run on an object store keeps on this machine, and for how long."""

import tempfile
from pathlib import Path
from uuid import uuid4

import pytest

from capfilt.run import files
from capfilt.run.scratch import Scratch, local_folder, tree


@pytest.fixture
def address() -> str:
    return f"memory:///capfilt-scratch-{uuid4().hex}/runs/demo"


def test_a_local_run_is_its_own_scratch(tmp_path: Path) -> None:
    files.put(str(tmp_path / "a" / "x"), b"1")
    with Scratch(str(tmp_path)) as scratch:
        assert scratch.fetch("a") == tmp_path / "a"
        scratch.send("a")
        scratch.drop("a")
    assert (tmp_path / "a" / "x").read_bytes() == b"1"


def test_nothing_of_it_stays_on_this_machine(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Scratch(address) as scratch:
        scratch.path("a")
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_step_made_is_sent_and_what_it_left_out_goes(address: str) -> None:
    files.put(files.join(address, "round-1", "dataset", "old.tar"), b"of an earlier policy")
    with Scratch(address) as scratch:
        made = scratch.path("round-1", "dataset")
        (made / "parquet").mkdir(parents=True)
        (made / "parquet" / "0.parquet").write_bytes(b"rows")
        (made / "manifest.json").write_bytes(b"{}")
        scratch.send("round-1", "dataset")
        assert made.is_dir()
    assert not made.exists()
    names = [path[len(address) + 1 :] for path in tree(address)]
    assert names == ["round-1/dataset/manifest.json", "round-1/dataset/parquet/0.parquet"]
    assert files.get(files.join(address, "round-1", "dataset", "parquet", "0.parquet")) == b"rows"


def test_the_manifest_is_sent_last(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(files, "put_file", lambda path, source: sent.append(source.name))
    with Scratch(address) as scratch:
        for name in ("z.tar", "manifest.json", "a.md"):
            scratch.path("dataset").mkdir(exist_ok=True)
            (scratch.path("dataset") / name).write_bytes(b"x")
        scratch.send("dataset")
    assert sent == ["a.md", "z.tar", "manifest.json"]


def test_a_step_finds_what_an_earlier_start_sent(address: str) -> None:
    files.put(files.join(address, "round-0", "training", "filter", "checkpoint", "step-1.pt"), b"state")
    files.put(files.join(address, "lone.json"), b"1")
    with Scratch(address) as scratch:
        folder = scratch.fetch("round-0", "training", "filter")
        assert (folder / "checkpoint" / "step-1.pt").read_bytes() == b"state"
        assert scratch.fetch("lone.json").read_bytes() == b"1"
        assert not scratch.fetch("nothing").exists()


def test_a_model_keeps_the_names_it_is_called_by(address: str, tmp_path: Path) -> None:
    files.put(files.join(address, "round-0", "models", "captioner", "model.safetensors"), b"w")
    with local_folder(files.join(address, "round-0", "models", "captioner")) as here:
        assert Path(here).parts[-3:] == ("round-0", "models", "captioner")
        assert (Path(here) / "model.safetensors").read_bytes() == b"w"
    assert not Path(here).exists()
    with local_folder(str(tmp_path)) as same:
        assert same == str(tmp_path)
