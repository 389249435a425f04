"""The dedup stage: healthy rows only, written whole, the same bytes twice."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.config.round import DedupConfig
from capfilt.dedup import records
from capfilt.schema import PAIRS, embedding_type
from capfilt.stages.dedup import dedup


def chunk(folder: Path, name: str, rows: list[tuple[str, str | None, str, list[float] | None]]) -> str:
    """Rows of (status, sha256, text, embedding)."""
    vectors = [None if row[3] is None else np.array(row[3], np.float16) for row in rows]
    table = pa.table(
        {
            "row_id": pa.array([f"{name}-{i:06d}" for i in range(len(rows))], pa.string()),
            "status": pa.array([row[0] for row in rows], pa.string()),
            "sha256": pa.array([row[1] for row in rows], pa.string()),
            "text": pa.array([row[2] for row in rows], pa.string()),
            "embedding": pa.array(vectors, embedding_type(3)),
        }
    )
    pq.write_table(table, folder / f"chunk-{name}.parquet")
    return str(folder / f"chunk-{name}.parquet")


def a_table(folder: Path) -> list[str]:
    one = chunk(folder, "aa", [("ok", "s1", "x", [1, 0, 0]), ("download_failed", None, "x", None), ("ok", "s2", "x", [0, 1, 0])])
    two = chunk(
        folder,
        "bb",
        [
            ("ok", "s3", "A red square.", [0.99, 0.02, 0]),
            ("ok", "s2", "y", [0, 1, 0]),
            ("image_invalid", "s1", "z", None),
            ("ok", "s4", "y", None),
        ],
    )
    return [two, one]


def test_close_pictures_and_equal_bytes_are_recorded_once_each(tmp_path: Path) -> None:
    summary = dedup(DedupConfig(min_cosine=0.9), a_table(tmp_path), str(tmp_path / "dedup"), embedder=None)
    table = pq.read_table(tmp_path / "dedup" / "pairs.parquet")
    assert table.schema.equals(records.PAIRS, check_metadata=False)
    pairs = [(row["a"], row["b"], row["kind"]) for row in table.to_pylist()]
    assert pairs == [("aa-000000", "bb-000000", "cosine"), ("aa-000002", "bb-000001", "sha256")]
    assert (summary["rows"], summary["embedded"]) == (5, 4)
    assert summary["pairs"] == {"sha256": 1, "cosine": 1}
    assert records.read_facts(tmp_path / "dedup" / "pairs.parquet")["min_cosine"] == 0.9


def test_an_evaluation_picture_is_found_by_its_bytes_and_equal_texts_are_only_counted(tmp_path: Path) -> None:
    columns = [["k"], [b"bytes"], [1], [1], [["a red square"]]]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, PAIRS, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=PAIRS), tmp_path / "heldout.parquet")
    config = DedupConfig(decontaminate=[str(tmp_path / "heldout.parquet")])
    summary = dedup(config, a_table(tmp_path), str(tmp_path / "dedup"), embedder=None)
    assert summary["contaminated"] == 0
    assert summary["evaluation"] == {"files": ["heldout.parquet"], "pictures": 1, "undecodable": 1, "equal_web_texts": 1}
    assert pq.read_table(tmp_path / "dedup" / "contamination.parquet").num_rows == 0


def test_the_same_candidates_give_the_same_bytes_and_replace_what_was_there(tmp_path: Path) -> None:
    files = a_table(tmp_path)
    dedup(DedupConfig(), files, str(tmp_path / "dedup"), embedder=None)
    first = {path.name: path.read_bytes() for path in (tmp_path / "dedup").iterdir()}
    dedup(DedupConfig(), files[::-1], str(tmp_path / "dedup"), embedder=None)
    assert {path.name: path.read_bytes() for path in (tmp_path / "dedup").iterdir()} == first
    assert not list(tmp_path.glob("dedup.*")), "nothing is left beside"


def test_a_table_without_a_healthy_row_has_empty_records(tmp_path: Path) -> None:
    files = [chunk(tmp_path, "aa", [("download_failed", None, "x", None)])]
    summary = dedup(DedupConfig(), files, str(tmp_path / "dedup"), embedder=None)
    assert summary["pairs"] == {"sha256": 0, "cosine": 0}
    assert json.loads((tmp_path / "dedup" / "summary.json").read_text()) == summary
    assert len(records.recorded_groups(tmp_path / "dedup", None)[0]) == 0
