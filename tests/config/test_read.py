"""Section `read`: one kind per source, a URL list where none is said."""

import pytest

from capfilt.config.load import load_text
from capfilt.config.read import Folder, UrlList, WebDataset
from capfilt.errors import ConfigError


def read(section: str) -> object:
    return load_text(f"version: 1\nname: n\noutput: o\nread: {section}\n").read


def test_without_a_kind_it_is_a_url_list() -> None:
    assert read("{paths: [a]}") == UrlList(paths=["a"])
    assert read("{kind: webdataset, paths: ['{0..9}.tar']}") == WebDataset(kind="webdataset", paths=["{0..9}.tar"])
    assert read("{kind: folder, paths: [a], captions: c.csv}") == Folder(kind="folder", paths=["a"], captions="c.csv")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "{kind: parquet_image, paths: [a]}",
            r"pipeline:4 read\.kind: 'parquet_image' is not one of url_list, .*'parquet_images'\?",
        ),
        ("{paths: [a], colums: {}}", r"pipeline:4 read\.colums: unknown key .*Did you mean 'columns'\?"),
        ("{kind: folder, paths: []}", r"read\.paths: 0 entries found; expected at least 1"),
        ("{kind: folder, paths: [a], columns: {image: x}}", r"read\.columns\.image: 'image' is not one of uid, url, text, file"),
        ("{paths: [a], columns: {url: null}}", "expected the column of `url`, found null"),
        ("{kind: webdataset, paths: [a], columns: {image: null}}", "expected the column of `image`, found null"),
        ("{paths: [a], keep_types: {a: float}}", "keep_types names a, which keep_columns does not carry"),
        ("{paths: [a], keep_columns: [a], keep_types: {a: number}}", "'number' is not one of text, float, int, bool"),
        ("7", "7 is a number; expected a section with `kind`, one of url_list, parquet_images, webdataset, img2dataset, folder"),
    ],
)
def test_a_mistake_is_told_with_what_may_stand_there(section: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(section)
