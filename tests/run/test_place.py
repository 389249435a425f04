"""A run works in a folder of its own: new, empty, or an earlier run's."""

from pathlib import Path

import fsspec
import pytest

from capfilt.config.load import load_pipeline
from capfilt.errors import ConfigError
from capfilt.run.place import check_place, inputs_inside, is_run

RUN = "version: 1\nname: x\nseed: 0\noutput: here\nrounds: 1\nscreen: {}\nresources: {}\n"


def refused(output: str) -> str:
    with pytest.raises(ConfigError) as told:
        check_place(output)
    assert "Name a folder of its own" in str(told.value)
    return str(told.value)


def test_an_address_that_nobody_can_write_to_is_refused() -> None:
    with pytest.raises(ConfigError, match="nosuchprotocol"):
        check_place("nosuchprotocol://bucket/run")


@pytest.mark.parametrize("output", ["runs/x", "/abs/run", "memory://bucket/run"])
def test_a_folder_that_is_not_there_yet_is_not(output: str) -> None:
    check_place(output)


def test_the_root_is_refused_and_so_is_no_folder_at_all() -> None:
    assert "found the root of all folders" in refused("/")
    assert "found an empty text" in refused("")


def test_the_home_folder_is_refused_however_it_is_named_but_a_folder_in_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "me"
    (home / "runs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "link").symlink_to(home)
    for output in (str(home), str(tmp_path / "link"), str(home / "runs" / "..")):
        assert f"found the home folder, `{home}`" in refused(output)
    check_place(str(home / "runs"))


def test_the_folder_at_hand_is_refused_for_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_place(".")
    for name in ("pipeline.yaml", "a", "b", "c"):
        (tmp_path / name).write_text("")
    assert f"found other things in `{tmp_path}`: a, b, c and 1 more" in refused(".")


@pytest.mark.parametrize("name", ["pool", "round-1", "config.yaml", ".git"])
def test_what_only_looks_like_a_runs_is_not_taken_for_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("database: {host: here, name: x, version: 1}\n")
    assert name in refused(str(tmp_path))


@pytest.mark.parametrize("name", ["lease.json", "events", "miniweb", ".web.parquet.12-34.part"])
def test_what_a_start_left_that_ended_early_is_no_stranger(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    check_place(str(tmp_path))


@pytest.mark.parametrize("name", [".gitkeep", ".DS_Store", "lost+found", ".nfs00000a1b", ".Trash-1000", "slurm-17.out"])
def test_nor_is_what_systems_leave_in_a_folder_that_looks_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    check_place(str(tmp_path))


def test_events_of_others_are_not_taken_for_a_runs(tmp_path: Path) -> None:
    (tmp_path / "events" / "attempts").mkdir(parents=True)
    for name in ("phases.jsonl", "ray.log"):
        (tmp_path / "events" / name).write_text("")
        check_place(str(tmp_path))
    (tmp_path / "events" / "events.out.tfevents.1").write_text("")
    assert "events" in refused(str(tmp_path))


def test_a_user_without_a_home_may_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    check_place(str(tmp_path / "run"))


@pytest.mark.parametrize(("name", "content"), [("config.yaml", RUN), ("plan.json", '{"fingerprint": "f", "settings": {}}')])
def test_an_earlier_run_may_go_on_whatever_else_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    (tmp_path / "notes.txt").write_text("what I saw")
    assert "notes.txt" in refused(str(tmp_path))
    (tmp_path / name).write_text(content)
    assert is_run(str(tmp_path))
    check_place(str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    check_place(str(tmp_path))


def test_inputs_that_the_pipeline_names_in_its_folder_are_no_strangers(tmp_path: Path) -> None:
    for name in ("web-1.parquet", "web-2.parquet", "pairs"):
        (tmp_path / name).write_text("")
    said = [f"output={tmp_path}", "read.paths=['{output}/web-*.parquet']"]
    assert inputs_inside(load_pipeline("quickstart", said)) == ["miniweb", "web-*.parquet"]
    assert "found other things" in refused(str(tmp_path))
    said.append("finetune.human='{output}/pairs/human.parquet'")
    check_place(str(tmp_path), inputs_inside(load_pipeline("quickstart", said)))
    everything = load_pipeline("quickstart", [f"output={tmp_path}", "read.paths=['{output}/*']"])
    with pytest.raises(ConfigError, match="found other things"):
        check_place(str(tmp_path), inputs_inside(everything))


@pytest.mark.parametrize("output", ["data", "./data", "ABSOLUTE", "file://ABSOLUTE", "data/../data/"])
@pytest.mark.parametrize(
    "paths", ["data/web-*.parquet", "./data/web-{1,2}.parquet", "ABSOLUTE/web-?.parquet", "{output}/web-*.parquet"]
)
def test_however_their_paths_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, paths: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("web-1.parquet", "web-2.parquet"):
        (tmp_path / "data" / name).write_text("")
    here = str(tmp_path / "data")
    said = [f"output={output.replace('ABSOLUTE', here)}", f"read.paths=['{paths.replace('ABSOLUTE', here)}']"]
    asked = load_pipeline("quickstart", said)
    check_place(asked.output, inputs_inside(asked))
    (tmp_path / "data" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"found other things in .*: thesis\.tex"):
        check_place(asked.output, inputs_inside(asked))


@pytest.mark.parametrize("name", ["pool", "inputs.parquet", "round-1", "report.html"])
def test_inputs_where_the_run_would_write_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    for paths in ("*.*", "pool/*.parquet", "round-*/x.parquet", name):
        asked = load_pipeline("quickstart", [f"output={tmp_path}", f"read.paths=['{{output}}/{paths}']"])
        with pytest.raises(ConfigError, match=f"found other things in .*: {name}"):
            check_place(asked.output, inputs_inside(asked))


def test_a_store_is_looked_at_in_the_same_way() -> None:
    fsspec.filesystem("memory").pipe_file("/bucket-of-many/data.csv", b"1")
    assert "found other things in `memory://bucket-of-many`: data.csv" in refused("memory://bucket-of-many")
    check_place("memory://bucket-of-many/run")
