"""Pairs of stored embeddings and texts, read from tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.errors import InputError
from capfilt.training.embeddings import read_embeddings

TEXTS = [f"a {size} {colour} {thing}" for size in ("big", "small") for colour in ("red", "blue") for thing in ("ball", "box")]
DIM = 6


def test_rows_become_pairs_and_rows_without_embedding_or_text_none(stored: Path) -> None:
    pairs = read_embeddings([stored], text="captions")
    assert pairs.texts == [*TEXTS, "seen in may", "lovely", "a note"]
    assert pairs.embedding_of.tolist() == [*range(8), 8, 8, 9]
    assert pairs.embed_PE.dtype == np.float32
    expected = np.random.default_rng(0).normal(size=(13, DIM)).astype(np.float16).astype(np.float32)[:10]
    np.testing.assert_array_equal(pairs.embed_PE, expected)
    assert read_embeddings([stored, stored], text="captions").embedding_of.max() == 19


def test_a_captioner_per_source_sees_only_its_rows(stored: Path) -> None:
    assert read_embeddings([stored], text="captions", where={"source": "shop"}).texts == TEXTS
    assert len(read_embeddings([stored], text="captions", where={"source": "blog"})) == 3
    with pytest.raises(InputError, match="where"):
        read_embeddings([stored], text="captions", where={"source": "news"})


def test_a_captioner_per_source_finds_the_source_among_the_carried_columns(tmp_path: Path) -> None:
    """As in a round's candidates, which hold them inside `upstream`."""
    carried = [{"source": "shop", "year": 1}, {"source": "blog", "year": 1}, None, {"source": "shop", "year": 2}]
    rows = {"embedding": [[1.0], [2.0], [3.0], [4.0]], "text": list("abcd"), "status": ["ok"] * 4, "upstream": carried}
    path = tmp_path / "candidates.parquet"
    pq.write_table(pa.table(rows), path)
    assert read_embeddings([path], where={"source": "shop"}).texts == ["a", "d"]
    assert read_embeddings([path], where={"upstream.source": "shop", "year": 2, "status": "ok"}).texts == ["d"]
    with pytest.raises(
        InputError, match="expected the column sauce, found none, and none in `upstream`, which carries source, year"
    ):
        read_embeddings([path], where={"sauce": "shop"})


def test_tables_that_cannot_be_read_are_named(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="text"):
        read_embeddings([stored])
    with pytest.raises(InputError, match="found none"):
        read_embeddings([tmp_path / "none.parquet"])
    uneven = tmp_path / "uneven.parquet"
    pq.write_table(pa.table({"embedding": [[1.0, 2.0], [1.0]], "text": ["a", "b"]}), uneven)
    with pytest.raises(InputError, match="one width"):
        read_embeddings([uneven])
