"""Pair files of a few coloured squares, and an architecture of a few thousand parameters."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.schema import CAPTION

ARCHITECTURE = """
kind: med
image: {size: 16, patch: 4, width: 16, layers: 1, heads: 2, stem: conv, positions: learned}
text: {vocabulary: trained, vocab_size: 80, width: 16, layers: 1, heads: 2, intermediate: 32, max_positions: 24,
       dropout: 0.1, cls_id: 2, sep_id: 3}
embed_dim: 8
queue_size: 12
max_text_length: 14
init_std: 0.2
"""


@pytest.fixture
def architecture_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(ARCHITECTURE)
    return path


@pytest.fixture
def picture() -> Callable[[int], bytes]:
    def encoded(seed: int) -> bytes:
        pixels = np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        return stream.getvalue()

    return encoded


@pytest.fixture
def caption() -> Callable[..., dict[str, Any]]:
    def row(text: str, origin: str = "web", rule: str | None = None) -> dict[str, Any]:
        empty = dict.fromkeys(("captioner", "k", "log_prob", "error"))
        return {**empty, "text": text, "origin": origin, "rule": rule, "scores": []}

    return row


@pytest.fixture
def write_pool(tmp_path: Path) -> Callable[..., str]:
    def write(rows: list[dict[str, Any]], name: str = "pool.parquet") -> str:
        schema = pa.schema([("status", pa.string()), ("image", pa.large_binary()), ("captions", pa.list_(CAPTION))])
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / name, row_group_size=3)
        return str(tmp_path / name)

    return write


@pytest.fixture
def write_human(tmp_path: Path) -> Callable[..., str]:
    def write(rows: list[dict[str, Any]], name: str = "human.parquet") -> str:
        schema = pa.schema([("key", pa.string()), ("image", pa.binary()), ("captions", pa.list_(pa.string()))])
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / name)
        return str(tmp_path / name)

    return write


@pytest.fixture
def pool_file(picture: Callable[[int], bytes], caption: Callable[..., dict[str, Any]], write_pool: Callable[..., str]) -> str:
    words = ("red", "green", "blue", "striped", "tiny")
    return write_pool(
        [{"status": "ok", "image": picture(i), "captions": [caption(f"a {words[i % 5]} square {i}")]} for i in range(11)]
    )


@pytest.fixture
def human_file(picture: Callable[[int], bytes], write_human: Callable[..., str]) -> str:
    return write_human(
        [{"key": f"h{i}", "image": picture(100 + i), "captions": [f"a square {i}", f"one small thing {i}"]} for i in range(5)]
    )


STORED_TEXTS = [
    f"a {size} {colour} {thing}" for size in ("big", "small") for colour in ("red", "blue") for thing in ("ball", "box")
]
STORED_DIM = 6


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """8 rows of source `shop` with one text each, two of `blog`, and three that give no pair."""
    vectors = np.random.default_rng(0).normal(size=(13, STORED_DIM)).astype(np.float16)
    texts: list[list[str | None] | None] = [[text] for text in STORED_TEXTS]
    texts += [["seen in may", "lovely"], ["a note"], ["lost"], [" ", None], None]
    rows = [None if i == 10 else vector for i, vector in enumerate(vectors)]
    columns = {
        "embedding": pa.array([None if v is None else v.tolist() for v in rows], pa.list_(pa.float16(), STORED_DIM)),
        "captions": pa.array(texts, pa.list_(pa.string())),
        "source": ["shop"] * 8 + ["blog"] * 5,
    }
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(columns), path)
    return path
