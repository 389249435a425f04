"""Twenty pairs, and their writers in every form that a source may have."""

import csv
import gzip
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.config.pipeline import Pipeline
from capfilt.config.read import ReadConfig
from capfilt.plan import Chunk, InputFile, make_chunks
from capfilt.sources.scan import scan
from capfilt.stages.read import read_chunk


@dataclass(frozen=True)
class Pair:
    url: str
    text: str
    image: bytes
    punsafe: float


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40 + number, 30), (number * 10, 0, 99)).save(out, "PNG")
    return out.getvalue()


TEXTS = (
    "a plain text",
    'a "quoted" word',
    "commas, and more, commas",
    "naïve café ☕",
    '"all of it"',
    "a\\backslash",
    "5\" wide, 3' tall",
)
PAIRS = [
    Pair(f"http://host.test/{number}.png", f"{TEXTS[number % len(TEXTS)]} {number}", picture(number), number / 20)
    for number in range(20)
]


def section(**settings: Any) -> ReadConfig:
    """A `read` section as a pipeline file gives it."""
    text = {"version": 1, "name": "n", "output": "runs/n", "read": {"rows_per_chunk": 6, **settings}}
    return Pipeline.model_validate_json(json.dumps(text), strict=True).read


def read_all(config: ReadConfig, index: list[InputFile] | None = None) -> pa.Table:
    """Every row of a source, in the order of its chunks."""
    tables = [read_chunk(chunk, config) for chunk in make_chunks(config, scan(config) if index is None else index)]
    return pa.concat_tables(tables)


def chunks_of(config: ReadConfig, known: list[InputFile] | None = None) -> tuple[list[InputFile], tuple[Chunk, ...]]:
    index = scan(config, known)
    return index, make_chunks(config, index)


def put(path: Path, data: bytes) -> Path:
    """`data` under `path`, compressed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".gz", ".tgz"):
        path.write_bytes(gzip.compress(data, mtime=0))
    elif path.suffix == ".zst":
        path.write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
    else:
        path.write_bytes(data)
    return path


def csv_bytes(rows: list[list[Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def samples(pairs: list[Pair], first: int = 0) -> list[tuple[str, bytes]]:
    """Members as img2dataset writes them."""
    members = []
    for key, pair in enumerate(pairs, first):
        meta = {"url": pair.url, "caption": pair.text, "key": f"{key:09d}", "punsafe": pair.punsafe, "width": 40 + key}
        members += [(f"{key:09d}.jpg", pair.image), (f"{key:09d}.txt", pair.text.encode())]
        members.append((f"{key:09d}.json", json.dumps(meta, indent=4).encode()))
    return members


def unpack(folder: Path, members: list[tuple[str, bytes]]) -> None:
    for name, data in members:
        put(folder / name, data)


def table(pairs: list[Pair], **names: str) -> pa.Table:
    """Columns named `url=…, text=…, image=…, punsafe=…`."""
    return pa.table({theirs: [getattr(pair, ours) for pair in pairs] for ours, theirs in names.items()})


def parquet(path: Path, found: pa.Table, rows: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(found, path, row_group_size=rows)
    return path


@pytest.fixture(scope="session")
def kit() -> Any:
    """The helpers above: test modules cannot import a conftest."""
    return SimpleNamespace(
        pairs=PAIRS,
        section=section,
        read_all=read_all,
        chunks_of=chunks_of,
        put=put,
        csv_bytes=csv_bytes,
        tar_bytes=tar_bytes,
        samples=samples,
        unpack=unpack,
        table=table,
        parquet=parquet,
    )
