"""The files of a round's dedup folder."""

from pathlib import Path

import pyarrow as pa
import pytest

from capfilt.dedup import records
from capfilt.errors import ConfigError, InputError


def written(folder: Path) -> Path:
    pairs = pa.Table.from_arrays(
        [pa.array(["r1", "r3"]), pa.array(["r2", "r4"]), pa.array([0.95, 0.99], pa.float32()), pa.array(["cosine", "cosine"])],
        schema=records.PAIRS,
    )
    hits = pa.Table.from_arrays(
        [pa.array(["r1", "r2"]), pa.array(["e#1", "e#2"]), pa.array([0.95, 1.0], pa.float32()), pa.array(["cosine", "sha256"])],
        schema=records.CONTAMINATION,
    )
    records.write_table(pairs, folder / "pairs.parquet", {"min_cosine": 0.95})
    records.write_table(hits, folder / "contamination.parquet", {"min_cosine": 0.95})
    return folder


def test_groups_are_read_at_the_recorded_threshold_or_above(tmp_path: Path) -> None:
    folder = written(tmp_path)
    groups, used = records.recorded_groups(folder, None)
    assert (len(groups), used) == (4, 0.95)
    assert len(records.recorded_groups(folder, 0.97)[0]) == 2
    with pytest.raises(ConfigError, match="--from dedup"):
        records.recorded_groups(folder, 0.9)


def test_contamination_by_equal_bytes_counts_at_any_threshold(tmp_path: Path) -> None:
    ids, by = records.recorded_contamination(written(tmp_path), 0.96)
    assert ids.tolist() == [b"r2"]
    assert by.to_pylist() == ["e#2"]


def test_missing_pairs_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pairs"):
        records.recorded_groups(tmp_path, None)
