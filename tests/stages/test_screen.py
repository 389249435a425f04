from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.screen import ScreenConfig
from capfilt.errors import InputError
from capfilt.schema import CAPTION
from capfilt.stages.base import Guarded, RowStage
from capfilt.stages.screen import ScreenStage

QUICKSTART = {"image": [{"kind": "min_side", "px": 32}, {"kind": "max_aspect", "ratio": 3}], "text": [{"kind": "not_empty"}]}
UNSAFE = {"image": [{"kind": "max_value", "column": "punsafe", "value": 0.5}]}


def screen(config: dict[str, Any]) -> Guarded:
    return Guarded(ScreenStage(ScreenConfig.model_validate(config)))


def rows(texts: list[str | None], sizes: list[tuple[int, int]] | None = None, **more: pa.Array) -> pa.Table:
    sizes = sizes or [(100, 100)] * len(texts)
    return pa.table(
        {
            "row_id": [f"c-{row:06d}" for row in range(len(texts))],
            "text": pa.array(texts, pa.string()),
            "status": pa.array(["ok"] * len(texts), pa.string()),
            "error": pa.nulls(len(texts), pa.string()),
            "original_width": pa.array([width for width, _ in sizes], pa.int32()),
            "original_height": pa.array([height for _, height in sizes], pa.int32()),
            **more,
        }
    )


def test_the_stage_is_a_row_stage() -> None:
    assert isinstance(ScreenStage(ScreenConfig()), RowStage)


def test_an_image_rule_tags_the_row_and_names_itself() -> None:
    table = screen(QUICKSTART)(rows(["a", "b", "c"], [(100, 100), (20, 100), (400, 100)]))
    assert table["status"].to_pylist() == ["ok", "rule_rejected", "rule_rejected"]
    assert table["error"].to_pylist() == [None, "min_side", "max_aspect"]


def test_a_text_rule_tags_the_text_and_leaves_the_row() -> None:
    table = screen(QUICKSTART)(rows(["a dog", " ", None]))
    assert table["status"].to_pylist() == ["ok"] * 3
    captions = table["captions"].to_pylist()
    assert [[(c["text"], c["origin"], c["rule"]) for c in texts] for texts in captions] == [
        [("a dog", "web", None)],
        [(" ", "web", "not_empty")],
        [],
    ]
    assert captions[0][0]["scores"] == []
    assert table.schema.field("captions").type == pa.list_(CAPTION)


def test_a_rule_on_a_carried_column_reads_upstream() -> None:
    upstream = pa.array([{"punsafe": 0.9}, {"punsafe": 0.1}, None], pa.struct([("punsafe", pa.float64())]))
    table = screen(UNSAFE)(rows(["a", "b", "c"], upstream=upstream))
    assert table["error"].to_pylist() == ["max_value:punsafe", None, None]


def test_a_rule_on_a_column_that_is_not_carried_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"Add `punsafe` to `read\.keep_columns`"):
        screen(UNSAFE)(rows(["a"]))


def test_zero_rows_still_get_the_column() -> None:
    assert screen(QUICKSTART)(rows([])).schema.field("captions").type == pa.list_(CAPTION)


@given(st.lists(st.tuples(st.none() | st.text(), st.integers(1, 200), st.integers(1, 200)), max_size=12))
def test_rows_are_tagged_and_never_dropped(drawn: list[tuple[str | None, int, int]]) -> None:
    before = rows([text for text, _, _ in drawn], [(width, height) for _, width, height in drawn])
    after = screen(QUICKSTART)(before)
    assert after["row_id"].equals(before["row_id"])
    for (text, width, height), status, captions in zip(
        drawn, after["status"].to_pylist(), after["captions"].to_pylist(), strict=True
    ):
        passes = min(width, height) >= 32 and max(width, height) <= 3 * min(width, height)
        assert status == ("ok" if passes else "rule_rejected")
        assert [c["text"] for c in captions] == ([] if text is None else [text])
