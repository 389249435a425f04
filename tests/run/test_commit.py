from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.errors import ContractError
from capfilt.run.commit import chunk_path, commit, read_footer, seal_holds
from capfilt.schema import EMBEDDING, embedding_type, pool_schema


def test_a_committed_chunk_says_what_it_is(tmp_path: Path, pool_table: Any) -> None:
    footer = commit(pool_table("c", [1, None, 3]), str(tmp_path), chunk_id="c", fingerprint="f", stage="pool")
    assert footer.counts == {"download_failed": 1, "ok": 2}
    assert read_footer(chunk_path(str(tmp_path), "c")) == footer
    written = pq.read_table(chunk_path(str(tmp_path), "c"))
    assert written.schema.equals(pool_schema())
    assert pq.ParquetFile(chunk_path(str(tmp_path), "c")).num_row_groups == 1


def test_the_same_rows_give_the_same_bytes_however_they_are_chunked(tmp_path: Path, pool_table: Any) -> None:
    table = pool_table("c", [1, 2, None, 4])
    for folder, given in (("a", table), ("b", pa.concat_tables([table.slice(0, 1), table.slice(1)]))):
        commit(given, str(tmp_path / folder), chunk_id="c", fingerprint="f", stage="pool")
    assert Path(chunk_path(str(tmp_path / "a"), "c")).read_bytes() == Path(chunk_path(str(tmp_path / "b"), "c")).read_bytes()


def test_candidates_hold_no_picture(tmp_path: Path, pool_table: Any) -> None:
    table = pool_table("c", [1]).append_column(EMBEDDING, pa.array([[0.0, 1.0]], embedding_type(2)))
    commit(table, str(tmp_path), chunk_id="c", fingerprint="f", stage="candidates")
    names = pq.read_schema(chunk_path(str(tmp_path), "c")).names
    assert "image" not in names
    assert EMBEDDING in names


def test_the_file_holds_its_own_sha256_and_any_flipped_bit_breaks_it(tmp_path: Path, pool_table: Any) -> None:
    footer = commit(pool_table("c", [1, None, 3]), str(tmp_path), chunk_id="c", fingerprint="f", stage="pool")
    data = Path(chunk_path(str(tmp_path), "c")).read_bytes()
    assert seal_holds(data, footer.sha256)
    assert not seal_holds(data, "0" * 64)
    for at in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[at] ^= 1
        assert not seal_holds(bytes(flipped), footer.sha256), f"byte {at} of {len(data)}"
    assert not seal_holds(data[:-1], footer.sha256)
    assert not seal_holds(b"", footer.sha256)


def test_a_file_that_another_program_wrote_over_is_not_a_commit(tmp_path: Path, pool_table: Any) -> None:
    commit(pool_table("c", [1]), str(tmp_path), chunk_id="c", fingerprint="f", stage="pool")
    path = chunk_path(str(tmp_path), "c")
    pq.write_table(pq.read_table(path), path)
    assert read_footer(path) is None


def test_a_missing_column_is_a_bug(tmp_path: Path, pool_table: Any) -> None:
    with pytest.raises(ContractError, match=r"the pool table lacks \['sha256'\]"):
        commit(pool_table("c", [1]).drop_columns(["sha256"]), str(tmp_path), chunk_id="c", fingerprint="f", stage="pool")
    assert list(tmp_path.iterdir()) == []


def test_a_torn_file_has_no_footer(tmp_path: Path, pool_table: Any) -> None:
    commit(pool_table("c", [1, 2]), str(tmp_path), chunk_id="c", fingerprint="f", stage="pool")
    path = Path(chunk_path(str(tmp_path), "c"))
    whole = path.read_bytes()
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert read_footer(str(path)) is None
    pq.write_table(pa.table({"x": [1]}), path)
    assert read_footer(str(path)) is None
