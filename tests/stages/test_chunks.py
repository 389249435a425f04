"""Chunk files in row order."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.errors import ConfigError, InputError
from capfilt.stages.chunks import local_folder, read_chunks, scored_round


def test_files_are_read_by_chunk_id_whatever_their_folder_and_empty_ones_are_passed_over(tmp_path: Path) -> None:
    paths = []
    for folder, name, ids in (("z", "aa", ["aa-0", "aa-1"]), ("a", "bb", []), ("a", "cc", ["cc-0"])):
        (tmp_path / folder).mkdir(exist_ok=True)
        paths.append(str(tmp_path / folder / f"chunk-{name}.parquet"))
        pq.write_table(pa.table({"row_id": pa.array(ids, pa.string()), "x": pa.array([1] * len(ids), pa.int64())}), paths[-1])
    tables = list(read_chunks(paths[::-1], ["x", "absent"]))
    assert [table["row_id"].to_pylist() for table in tables] == [["aa-0", "aa-1"], ["cc-0"]]
    assert tables[0].column_names == ["row_id", "x"]


def test_a_missing_chunk_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Run the pipeline again"):
        list(read_chunks([str(tmp_path / "chunk-aa.parquet")], []))


def test_the_last_scored_round_is_found_by_number(tmp_path: Path) -> None:
    for number in (2, 9, 10):
        (tmp_path / f"round-{number}" / "candidates").mkdir(parents=True)
        (tmp_path / f"round-{number}" / "candidates" / "chunk-aa.parquet").touch()
    (tmp_path / "round-11").mkdir()
    assert scored_round(tmp_path, None).name == "round-10"
    assert scored_round(tmp_path, 9).name == "round-9"
    with pytest.raises(InputError, match="asked for 11"):
        scored_round(tmp_path, 11)


def test_an_object_store_is_refused_instead_of_becoming_a_folder() -> None:
    with pytest.raises(ConfigError, match="local folder"):
        local_folder("s3://bucket/run/dataset")
    assert local_folder("file:///run/dataset") == Path("/run/dataset")
