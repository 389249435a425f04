"""Folders appear whole or not at all."""

from pathlib import Path

import pytest

from capfilt.writers.whole import whole_folder


def test_a_folder_takes_the_old_ones_place(tmp_path: Path) -> None:
    for word in ("one", "two"):
        with whole_folder(tmp_path / "deep" / "set") as folder:
            (folder / word).write_text(word)
    assert [path.name for path in (tmp_path / "deep" / "set").iterdir()] == ["two"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set"]


def interrupted(target: Path) -> None:
    with whole_folder(target) as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt


def test_an_interrupted_folder_does_not_appear_and_leaves_the_next_attempt_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "set")
    assert not (tmp_path / "set").exists()
    with whole_folder(tmp_path / "set") as folder:
        (folder / "whole").write_text("")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["whole"]
