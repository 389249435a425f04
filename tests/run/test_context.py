"""The command that continues a run."""

import os
import shlex
from pathlib import Path

import pytest

from capfilt.config.load import load_pipeline
from capfilt.config.source import dump
from capfilt.run.context import continuing, resuming


def test_a_run_is_continued_as_it_was_begun() -> None:
    assert continuing("tiny.yaml", ()) == "capfilt run tiny.yaml"
    assert (
        continuing("tiny.yaml", ["output=x"], limit=9, until="write")
        == "capfilt run tiny.yaml --set output=x --limit 9 --until write"
    )


@pytest.mark.parametrize("override", ["read.paths=[a b, 'c']", "output=$HOME/x", 'name="two words"'])
def test_a_shell_gives_back_each_value_as_it_was(override: str) -> None:
    assert shlex.split(continuing("my pipeline.yaml", [override])) == ["capfilt", "run", "my pipeline.yaml", "--set", override]


# ── from the run folder alone ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was begun here with `output: runs/mine`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    config = {"version": 1, "name": "mine", "output": "runs/mine", "read": {"paths": ["a"]}}
    (folder / "config.yaml").write_text(dump(config))
    return folder


def where(command: str) -> str:
    """The run folder that a command works in."""
    program, run, config, *options = shlex.split(command)
    assert (program, run) == ("capfilt", "run")
    assert options[::2] == ["--set", "--limit"][: len(options) // 2]
    return load_pipeline(config, options[1:2], int(options[3]) if len(options) > 2 else None).output


def test_a_run_that_lies_where_it_was_begun_needs_no_output(begun: Path) -> None:
    assert resuming("runs/mine", None) == "capfilt run runs/mine/config.yaml"
    assert resuming(str(begun), None) == f"capfilt run {begun}/config.yaml"


@pytest.mark.parametrize("name", ["moved", "two words", "try #2", "42", "it's", "a: b"])
def test_a_run_that_was_moved_is_resumed_where_it_lies_now(begun: Path, name: str) -> None:
    begun.rename(name)
    assert os.path.samefile(where(resuming(name, None)), name)
    assert "--set" in resuming(name, None)


def test_a_run_that_is_named_from_another_place_is_not_begun_there(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (begun.parent / "elsewhere").mkdir()
    monkeypatch.chdir(begun.parent / "elsewhere")
    assert resuming("../mine", None) == "capfilt run ../mine/config.yaml --set output=../mine"


def test_a_limited_run_is_resumed_with_its_limit(begun: Path) -> None:
    limited = begun.with_name("mine-limit-6")
    begun.rename(limited)
    command = resuming("runs/mine-limit-6", 6)
    assert command == "capfilt run runs/mine-limit-6/config.yaml --set output=runs/mine --limit 6"
    assert where(command) == "runs/mine-limit-6"
    assert resuming("runs/renamed", 6) == "capfilt run … --limit 6", "no command finds a folder that is not called so"
