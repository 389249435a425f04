"""The contract's tables: who writes what, and the schemas made from it."""

from typing import get_args

import pyarrow as pa
import pytest

from capfilt import schema


def test_every_column_has_a_meaning_and_a_writer() -> None:
    for column in schema.COLUMNS:
        assert column.meaning
        assert column.by
        assert set(column.by) <= {"read", "download", "screen", "caption", "filter"}
    names = [column.name for column in schema.COLUMNS]
    assert len(names) == len(set(names))


def test_candidates_are_the_pool_without_image_bytes_and_with_the_embedding() -> None:
    pool, candidates = schema.pool_schema(), schema.candidates_schema(8)
    assert set(pool.names) - set(candidates.names) == {"image"}
    assert set(candidates.names) - set(pool.names) == {schema.EMBEDDING}
    assert candidates.field(schema.EMBEDDING).type == pa.list_(pa.float16(), 8)
    assert all(candidates.field(name) == pool.field(name) for name in candidates.names if name in pool.names)


def test_carried_columns_stand_in_both_tables() -> None:
    upstream = pa.struct([("similarity", pa.float32())])
    assert schema.pool_schema(upstream).field("upstream").type == upstream
    assert schema.candidates_schema(4, upstream).names[-2:] == ["upstream", "embedding"]
    assert "upstream" not in schema.pool_schema().names


def test_read_writes_columns_of_the_contract() -> None:
    assert set(schema.READ_COLUMNS) <= set(schema.POOL_COLUMNS)
    by_read = {column.name for column in schema.COLUMNS if "read" in column.by}
    assert set(schema.READ_COLUMNS) == by_read


@pytest.mark.parametrize("status", get_args(schema.Status))
def test_a_status_is_a_plain_word(status: str) -> None:
    assert status.isidentifier()
    assert status == "ok" or any(status.startswith(part) for part in ("download", "opted", "image", "rule", "caption", "filter"))


def test_every_reason_is_explained() -> None:
    assert schema.REASONS["kept"]
    assert all(code.isidentifier() and meaning for code, meaning in schema.REASONS.items())


def test_a_caption_round_trips_through_its_type() -> None:
    caption = {
        "text": "a red square",
        "origin": "synthetic",
        "captioner": "med",
        "k": 0,
        "log_prob": -1.5,
        "rule": None,
        "error": None,
        "scores": [{"filter": "med", "itm": 0.5, "itc": None}],
    }
    assert pa.array([[caption]], type=pa.list_(schema.CAPTION)).to_pylist() == [[caption]]
    assert len(schema.empty_captions()) == 0
