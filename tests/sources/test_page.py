"""docs/sources.md says what is true: its examples load, its names are the known ones."""

import re
from pathlib import Path

import pytest

from capfilt.config.load import load_text
from capfilt.sources.names import KNOWN

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_load(example: str) -> None:
    assert load_text("version: 1\nname: n\noutput: runs/n\n" + example).read.paths


def test_there_is_an_example_of_most_kinds() -> None:
    kinds = {load_text("version: 1\nname: n\noutput: runs/n\n" + example).read.kind for example in EXAMPLES}
    assert kinds == {"url_list", "webdataset", "folder", "parquet_images"}


def test_the_names_of_columns_are_the_known_ones() -> None:
    table = {
        ours: tuple(re.findall(r"`([^`]+)`", theirs))
        for ours, theirs in re.findall(r"^\| `(\w+)` \| (`[^|]*) \|$", PAGE, re.MULTILINE)
    }
    assert {ours: table[ours] for ours in KNOWN} == KNOWN
