"""Folders of pictures."""

from pathlib import Path
from typing import Any

import pytest

from capfilt.errors import InputError
from capfilt.sources.scan import scan


def config(kit: Any, path: Path, **settings: Any) -> Any:
    return kit.section(kind="folder", paths=[str(path)], **settings)


def test_a_captions_file_cannot_name_files_elsewhere_and_a_missing_picture_is_a_row(kit: Any, tmp_path: Path) -> None:
    kit.unpack(tmp_path, [("in/a.jpg", kit.pairs[0].image), ("secret.jpg", kit.pairs[1].image)])
    names = [
        "a.jpg",
        "../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "b.jpg",
        "",
        f"file://{tmp_path}/secret.jpg",
        str(tmp_path / "in" / "a.jpg"),
    ]
    kit.put(tmp_path / "in" / "captions.csv", kit.csv_bytes([["file", "caption"], *([name, "t"] for name in names)]))
    table = kit.read_all(config(kit, tmp_path / "in"))
    assert table["status"].to_pylist() == ["ok", *["image_invalid"] * 5, "ok"]
    assert set(table["error"].to_pylist()) == {None, "no_image"}


def test_a_captions_file_without_header_names_its_pictures(kit: Any, tmp_path: Path) -> None:
    kit.unpack(tmp_path, [("a.jpg", kit.pairs[0].image)])
    kit.put(tmp_path / "captions.tsv", b"a.jpg\tone\na.jpg\ttwo\n")
    assert kit.read_all(config(kit, tmp_path))["text"].to_pylist() == ["one", "two"]


def test_a_picture_without_a_text_has_none(kit: Any, tmp_path: Path) -> None:
    kit.unpack(tmp_path, [("a.jpg", b"x"), ("b.jpg", b"y"), ("b.txt", b"words"), ("c.PNG", b"z")])
    table = kit.read_all(config(kit, tmp_path))
    assert table["text"].to_pylist() == [None, "words", None]
    assert table["image"].to_pylist() == [b"x", b"y", b"z"]


def test_names_that_look_like_patterns_are_names(kit: Any, tmp_path: Path) -> None:
    kit.unpack(tmp_path, [("a [1].jpg", b"x"), ("a [1].txt", b"one"), ("b*.jpg", b"y"), ("bc.jpg", b"z"), ("bc.txt", b"two")])
    table = kit.read_all(config(kit, tmp_path))
    assert table["image"].to_pylist() == [b"x", b"y", b"z"]
    assert table["text"].to_pylist() == ["one", None, "two"]


def test_pictures_alone_are_a_source_where_one_says_so(kit: Any, tmp_path: Path) -> None:
    kit.unpack(tmp_path, [("a.jpg", b"x")])
    with pytest.raises(InputError, match="say `text: null`"):
        scan(config(kit, tmp_path))
    assert kit.read_all(config(kit, tmp_path, columns={"text": None}))["text"].to_pylist() == [None]


def test_a_named_captions_file_that_is_not_there_is_told(kit: Any, tmp_path: Path) -> None:
    kit.unpack(tmp_path, [("a.jpg", b"x")])
    with pytest.raises(InputError, match=r"expected the captions file `.*/labels\.csv`, found none"):
        scan(config(kit, tmp_path, captions="labels.csv"))
