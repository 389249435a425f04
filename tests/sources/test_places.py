"""`read.paths`: braces, globs, relative paths."""

from pathlib import Path

import pytest

from capfilt.errors import InputError
from capfilt.sources.places import expand


def test_braces_and_globs_in_the_order_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (8, 9, 10, 11):
        (tmp_path / f"{number:03d}.tar").touch()
    monkeypatch.chdir(tmp_path)
    assert expand(["{009..011}.tar", "0*.tar"]) == ["009.tar", "010.tar", "011.tar", "008.tar"]
    assert expand([f"{tmp_path}/0{{08,11}}.tar"]) == [f"{tmp_path}/008.tar", f"{tmp_path}/011.tar"]
    with pytest.raises(InputError, match=r"at `012\.tar`, found none"):
        expand(["{010..012}.tar"])


def test_a_lone_brace_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a{b.csv").touch()
    assert expand([f"{tmp_path}/a{{b.csv"]) == [f"{tmp_path}/a{{b.csv"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    for name in ("r[1].csv", "r1.csv"):
        (tmp_path / name).touch()
    assert expand([f"{tmp_path}/r[1].csv"]) == [f"{tmp_path}/r[1].csv"]
    assert expand([f"{tmp_path}/r[1-2].csv"]) == [f"{tmp_path}/r1.csv"]


def test_folders_only_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two.csv").touch()
    assert expand([f"{tmp_path}/*"], folders=True) == [f"{tmp_path}/one"]
    assert expand([f"{tmp_path}/*"]) == [f"{tmp_path}/two.csv"]


@pytest.mark.parametrize("address", ["s3x://bucket/web.parquet", "s3x://bucket/*.parquet"])
def test_an_address_that_nobody_can_list_is_told(address: str) -> None:
    with pytest.raises(InputError, match=r"read.paths: expected an address that fsspec can list, found `s3x://.*not known: s3x"):
        expand([address])
