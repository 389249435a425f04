"""The same twenty pairs through every kind and form of source are the same rows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from capfilt.identity import uid_of

Write = Callable[[Any, Path], dict[str, Any]]


def _jsonl(kit: Any, **names: str) -> bytes:
    rows = [{theirs: getattr(pair, ours) for ours, theirs in names.items()} for pair in kit.pairs]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _lists(kit: Any) -> list[list[Any]]:
    return [[pair.url, pair.text, pair.punsafe] for pair in kit.pairs]


def _pandas_csv(kit: Any) -> bytes:
    import pandas as pd

    rows = pd.DataFrame(
        {"url": [p.url for p in kit.pairs], "caption": [p.text for p in kit.pairs], "punsafe": [p.punsafe for p in kit.pairs]}
    )
    return rows.to_csv(index=True, lineterminator="\r\n").encode()


URLS: dict[str, Write] = {
    "laion.parquet": lambda kit, path: {
        "paths": [str(kit.parquet(path / "x.parquet", kit.table(kit.pairs, url="URL", text="TEXT", punsafe="punsafe")))]
    },
    "no ending, Parquet inside": lambda kit, path: {
        "paths": [str(kit.parquet(path / "part-00000", kit.table(kit.pairs, url="url", text="caption", punsafe="punsafe")))]
    },
    "csv": lambda kit, path: {"paths": [str(kit.put(path / "x.csv", kit.csv_bytes([["url", "text", "punsafe"], *_lists(kit)])))]},
    "csv.gz of pandas": lambda kit, path: {"paths": [str(kit.put(path / "x.csv.gz", _pandas_csv(kit)))]},
    "csv.zst, byte order mark": lambda kit, path: {
        "paths": [str(kit.put(path / "x.csv.zst", b"\xef\xbb\xbf" + kit.csv_bytes([["url", "text", "punsafe"], *_lists(kit)])))]
    },
    "tsv": lambda kit, path: {
        "paths": [str(kit.put(path / "x.tsv", kit.csv_bytes([["url", "text", "punsafe"], *_lists(kit)], "\t")))]
    },
    "jsonl": lambda kit, path: {
        "paths": [str(kit.put(path / "x.jsonl", _jsonl(kit, url="url", text="caption", punsafe="punsafe")))]
    },
    "jsonl.gz, mapped": lambda kit, path: {
        "paths": [str(kit.put(path / "x.jsonl.gz", _jsonl(kit, url="link", text="alt", punsafe="punsafe")))],
        "columns": {"url": "link", "text": "alt"},
    },
    "jsonl.zst": lambda kit, path: {
        "paths": [str(kit.put(path / "x.jsonl.zst", _jsonl(kit, url="URL", text="TEXT", punsafe="punsafe")))]
    },
}

IMAGES: dict[str, Write] = {
    "parquet_images": lambda kit, path: {
        "kind": "parquet_images",
        "paths": [
            str(kit.parquet(path / "x.parquet", kit.table(kit.pairs, image="image", url="url", text="text", punsafe="punsafe")))
        ],
    },
    "parquet_images of Hugging Face": lambda kit, path: {
        "kind": "parquet_images",
        "paths": [
            str(
                kit.parquet(
                    path / "x.parquet",
                    kit.table(kit.pairs, url="url", text="text", punsafe="punsafe").append_column(
                        "image", pa.array([{"bytes": pair.image, "path": None} for pair in kit.pairs])
                    ),
                )
            )
        ],
    },
    "webdataset, braces": lambda kit, path: {
        "kind": "webdataset",
        "paths": [
            kit.put(path / "00000.tar", kit.tar_bytes(kit.samples(kit.pairs[:9])))
            and kit.put(path / "00001.tar", kit.tar_bytes(kit.samples(kit.pairs[9:], 9)))
            and f"{path}/{{00000..00001}}.tar"
        ],
    },
    "webdataset .tar.gz": lambda kit, path: {
        "kind": "webdataset",
        "paths": [str(kit.put(path / "x.tar.gz", kit.tar_bytes(kit.samples(kit.pairs))))],
    },
    "webdataset .tar.zst": lambda kit, path: {
        "kind": "webdataset",
        "paths": [str(kit.put(path / "x.tar.zst", kit.tar_bytes(kit.samples(kit.pairs))))],
    },
    "img2dataset webdataset": lambda kit, path: {
        "kind": "img2dataset",
        "paths": [
            kit.put(path / "out" / "00000.tar", kit.tar_bytes(kit.samples(kit.pairs)))
            and kit.parquet(path / "out" / "00000.parquet", kit.table(kit.pairs, url="url", text="caption"))
            and kit.put(path / "out" / "00000_stats.json", b"{}")
            and str(path / "out")
        ],
    },
    "img2dataset files": lambda kit, path: {
        "kind": "img2dataset",
        "paths": [
            kit.unpack(path / "out" / "00000", kit.samples(kit.pairs[:11]))
            or kit.unpack(path / "out" / "00001", kit.samples(kit.pairs[11:], 11))
            or (
                kit.parquet(path / "out" / "00000.parquet", kit.table(kit.pairs, url="url", text="caption")) and str(path / "out")
            )
        ],
    },
    "img2dataset parquet": lambda kit, path: {
        "kind": "img2dataset",
        "paths": [
            kit.parquet(
                path / "out" / "00000.parquet", kit.table(kit.pairs, image="jpg", url="url", text="caption", punsafe="punsafe")
            )
            and str(path / "out")
        ],
    },
    "folder, .txt and .json beside": lambda kit, path: {
        "kind": "folder",
        "paths": [kit.unpack(path / "pictures", kit.samples(kit.pairs)) or str(path / "pictures")],
    },
}


def _folder(kit: Any, path: Path, name: str, data: bytes) -> dict[str, Any]:
    kit.unpack(path / "pictures", [(f"deep/{number}.png", pair.image) for number, pair in enumerate(kit.pairs)])
    kit.put(path / "pictures" / name, data)
    return {"kind": "folder", "paths": [str(path / "pictures")]}


def _named(kit: Any) -> list[list[Any]]:
    return [[f"deep/{number}.png", pair.text, pair.url, pair.punsafe] for number, pair in enumerate(kit.pairs)]


CAPTIONS: dict[str, Write] = {
    "folder, metadata.csv": lambda kit, path: _folder(
        kit, path, "metadata.csv", kit.csv_bytes([["file_name", "text", "url", "punsafe"], *_named(kit)])
    ),
    "folder, captions.jsonl": lambda kit, path: _folder(
        kit,
        path,
        "captions.jsonl",
        "".join(
            json.dumps(dict(zip(("image", "caption", "url", "punsafe"), row, strict=True))) + "\n" for row in _named(kit)
        ).encode(),
    ),
    "folder, named Parquet": lambda kit, path: (
        _folder(kit, path, "unrelated.md", b"# hello")
        | {
            "captions": kit.parquet(
                path / "pictures" / "notes" / "c.parquet",
                pa.table(
                    [list(column) for column in zip(*_named(kit), strict=True)], names=["filepath", "title", "url", "punsafe"]
                ),
            )
            and "notes/c.parquet"
        }
    ),
}
EVERY = URLS | IMAGES | CAPTIONS


@pytest.mark.parametrize("form", EVERY)
def test_the_same_pairs_are_the_same_rows(kit: Any, tmp_path: Path, form: str) -> None:
    config = kit.section(**EVERY[form](kit, tmp_path), keep_columns=["punsafe"])
    table = kit.read_all(config)
    assert table["status"].to_pylist() == ["ok"] * 20
    assert table["url"].to_pylist() == [pair.url for pair in kit.pairs]
    assert table["text"].to_pylist() == [pair.text for pair in kit.pairs]
    assert table["uid"].to_pylist() == [uid_of(pair.url, pair.text) for pair in kit.pairs]
    assert table["upstream"].to_pylist() == [{"punsafe": pair.punsafe} for pair in kit.pairs]
    assert len(set(table["row_id"].to_pylist())) == 20
    images = table["image"].to_pylist()
    assert images == ([None] * 20 if form in URLS else [pair.image for pair in kit.pairs])


@pytest.mark.parametrize("form", EVERY)
def test_the_index_says_which_columns_were_found(kit: Any, tmp_path: Path, form: str) -> None:
    index, chunks = kit.chunks_of(kit.section(**EVERY[form](kit, tmp_path)))
    assert {"text", "url" if form in URLS else "text"} <= {ours for file in index for ours, _ in file.columns}
    assert sum(file.rows for file in index) == sum(chunk.rows for chunk in chunks) == 20
    assert len(chunks) >= 4


@pytest.mark.parametrize("form", EVERY)
def test_chunks_can_be_read_in_any_order_and_by_several_threads(kit: Any, tmp_path: Path, form: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from capfilt.stages.read import read_chunk

    config = kit.section(**EVERY[form](kit, tmp_path))
    _, chunks = kit.chunks_of(config)
    once = [read_chunk(chunk, config) for chunk in chunks]
    with ThreadPoolExecutor(4) as workers:
        again = list(workers.map(lambda chunk: read_chunk(chunk, config), reversed(chunks)))
    assert all(one.equals(other) for one, other in zip(once, reversed(again), strict=True))


@pytest.mark.parametrize("form", [name for name in EVERY if name != "img2dataset parquet"])
def test_without_an_address_the_uid_is_of_the_picture_and_the_text(kit: Any, tmp_path: Path, form: str) -> None:
    if form in URLS:
        return
    import hashlib

    written = EVERY[form](kit, tmp_path)
    table = kit.read_all(kit.section(**written | {"columns": {"url": None}}))
    assert table["uid"].to_pylist() == [uid_of(hashlib.sha256(pair.image).hexdigest(), pair.text) for pair in kit.pairs]
