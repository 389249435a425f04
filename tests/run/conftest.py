"""A tiny run whose pictures, captioner and filter are made up: local, no network, no torch."""

import io
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.config.load import load_text
from capfilt.config.pipeline import Pipeline
from capfilt.identity import row_id, uid_of
from capfilt.plan import Chunk
from capfilt.run.commit import commit
from capfilt.schema import COLUMNS

FAKES = '''
import os
import numpy as np
from capfilt.captioners.base import Caption
from capfilt.filters.base import Scores

def shade(image):
    return image.getpixel((0, 0))[0]

class Captioner:
    """Says the picture's shade and its seed; `boom`, `die` and `bug` name shades it cannot stand."""
    name = "fake-captioner"
    def __init__(self, boom=-1, die=-1, bug=-1):
        self.boom, self.die, self.bug = boom, die, bug
    def caption(self, images, *, seeds):
        shades = [shade(image) for image in images]
        if self.boom in shades:
            raise RuntimeError("boom")
        if self.die in shades:
            os._exit(9)
        if self.bug in shades:
            from capfilt.errors import ContractError
            raise ContractError("a bug")
        return [[Caption(f"shade {s} {seed % 1000}", -float(s)) for seed in row] for s, row in zip(shades, seeds)]

class Filter:
    name, dim = "fake-filter", 2
    def score(self, images, texts):
        embedding = np.array([[shade(image), 1.0] for image in images], dtype=np.float32).reshape(-1, 2)
        embedding /= np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-9)
        return Scores([[len(text) / 100 for text in row] for row in texts], None, embedding)
'''

YAML = """
version: 1
name: tiny
output: {output}
read: {{paths: [web.parquet], rows_per_chunk: 4}}
caption: {{captioner: {{kind: custom, target: "capfilt_fakes:Captioner", options: {options}}}, batch_size: 2}}
filter: {{filter: {{kind: custom, target: "capfilt_fakes:Filter"}}, batch_size: 2}}
select: {{}}
resources: {{executor: local, retries_per_chunk: 2, ray: {{logical_cpus: 4}}, {resources}}}
"""


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an importable module `capfilt_fakes`."""
    folder = tmp_path_factory.mktemp("fakes")
    (folder / "capfilt_fakes.py").write_text(FAKES)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("capfilt_fakes", None)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes need no torch, whose import costs seconds."""
    fake = types.SimpleNamespace(set_num_threads=lambda threads: None, get_num_threads=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", fake)


PipelineOf = Callable[..., Pipeline]


@pytest.fixture(scope="session")
def pipeline_of(fakes: Path) -> PipelineOf:
    def make(output: Path, *, options: str = "{}", resources: str = "chunks_per_wave: 512") -> Pipeline:
        return load_text(YAML.format(output=output, options=options, resources=resources))

    return make


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(out, "JPEG", quality=95)
    return out.getvalue()


def pool_table(chunk_id: str, shades: list[int | None]) -> pa.Table:
    """A pool chunk; None is a row whose download failed."""
    caption = {"origin": "web", "captioner": None, "k": None, "log_prob": None, "rule": None, "error": None, "scores": []}
    values: dict[str, list[Any]] = {
        "row_id": [row_id(chunk_id, i) for i in range(len(shades))],
        "uid": [uid_of(f"u{chunk_id}{i}", "t") for i in range(len(shades))],
        "url": [f"http://x/{i}" for i in range(len(shades))],
        "text": [f"text {i}" for i in range(len(shades))],
        "status": ["download_failed" if shade is None else "ok" for shade in shades],
        "error": ["http_404" if shade is None else None for shade in shades],
        "image": [None if shade is None else jpeg(shade) for shade in shades],
        "captions": [None if shade is None else [{"text": f"text {i}", **caption}] for i, shade in enumerate(shades)],
    }
    columns = {c.name: pa.array(values.get(c.name, [None] * len(shades)), c.type) for c in COLUMNS}
    return pa.table(columns)


@pytest.fixture(name="pool_table", scope="session")
def _pool_table() -> Callable[[str, list[int | None]], pa.Table]:
    return pool_table


@pytest.fixture(scope="session")
def make_pool() -> Callable[[Path], list[Chunk]]:
    """Commits five chunks of four rows, the last row of each a failed download; shades 0, 10, 20, … 140."""

    def make(output: Path) -> list[Chunk]:
        chunks = []
        for number in range(5):
            name = f"{number:016x}"
            shades: list[int | None] = [*(10 * (3 * number + i) for i in range(3)), None]
            commit(pool_table(name, shades), str(output / "pool"), chunk_id=name, fingerprint="f", stage="pool")
            chunks.append(Chunk(name, "web.parquet", "e", 0, 4 * number, 4, 4 * number))
        return chunks

    return make


@pytest.fixture
def web(tmp_path: Path) -> Path:
    path = tmp_path / "web.parquet"
    pq.write_table(pa.table({"url": [f"http://x/{i}" for i in range(10)], "text": ["t"] * 10}), path, row_group_size=6)
    return path
