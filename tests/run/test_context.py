"""The command that continues a run."""

import shlex

import pytest

from capfilt.run.context import continuing


def test_a_run_is_continued_as_it_was_begun() -> None:
    assert continuing("tiny.yaml", ()) == "capfilt run tiny.yaml"
    assert (
        continuing("tiny.yaml", ["output=x"], limit=9, until="write")
        == "capfilt run tiny.yaml --set output=x --limit 9 --until write"
    )


@pytest.mark.parametrize("override", ["read.paths=[a b, 'c']", "output=$HOME/x", 'name="two words"'])
def test_a_shell_gives_back_each_value_as_it_was(override: str) -> None:
    assert shlex.split(continuing("my pipeline.yaml", [override])) == ["capfilt", "run", "my pipeline.yaml", "--set", override]
