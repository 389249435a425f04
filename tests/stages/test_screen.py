import io
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from capfilt.config.load import load_text
from capfilt.config.screen import ScreenConfig
from capfilt.errors import ConfigError, InputError
from capfilt.schema import CAPTION
from capfilt.stages.base import Guarded, RowStage
from capfilt.stages.screen import ScreenStage

QUICKSTART = {"image": [{"kind": "min_side", "px": 32}, {"kind": "max_aspect", "ratio": 3}], "text": [{"kind": "not_empty"}]}
PIXELS = {"image": [{"kind": "bytes", "min": 20}, {"kind": "one_colour"}, {"kind": "blur"}]}
MASK = {"text": [{"kind": "pii", "action": "mask"}]}
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


def test_a_number_that_is_nan_is_missing() -> None:
    upstream = pa.array([{"punsafe": float("nan")}], pa.struct([("punsafe", pa.float64())]))
    table = ScreenStage(ScreenConfig.model_validate(UNSAFE))(rows(["a"], upstream=upstream))
    assert table["error"].to_pylist() == [None]


def test_a_column_of_texts_may_hold_numbers_and_one_of_lists_cannot() -> None:
    as_text = pa.array([{"punsafe": "0.9"}, {"punsafe": "n/a"}], pa.struct([("punsafe", pa.string())]))
    assert screen(UNSAFE)(rows(["a", "b"], upstream=as_text))["error"].to_pylist() == ["max_value:punsafe", None]
    as_list = pa.array([{"punsafe": [0.9]}], pa.struct([("punsafe", pa.list_(pa.float64()))]))
    with pytest.raises(InputError, match=r"`max_value` expects numbers .* `punsafe`, found list"):
        screen(UNSAFE)(rows(["a"], upstream=as_list))


PIPELINE = """
version: 1
name: t
output: runs/t
read: {paths: [a.parquet], keep_columns: [similarity]}
screen:
  image: [{kind: max_value, column: punsafe, value: 0.5}]
"""


def test_a_rule_on_a_column_that_is_not_carried_is_found_when_the_pipeline_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"reads the carried column `punsafe`; `read\.keep_columns` carries similarity\. Add"):
        load_text(PIPELINE)
    assert load_text(PIPELINE, overrides=["read.keep_columns=[punsafe]"]).screen.columns == ["punsafe"]


def flat_jpeg(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "JPEG")
    return file.getvalue()


def test_rules_on_pixels_read_the_stored_picture() -> None:
    image = pa.array([b"tiny", flat_jpeg((9, 9, 9)), None], pa.large_binary())
    table = screen(PIXELS)(rows(["a", "b", "c"], image=image))
    assert table["error"].to_pylist() == ["bytes", "one_colour", None]


def test_a_picture_that_does_not_decode_is_image_invalid_and_keeps_its_text() -> None:
    image = pa.array([b"x" * 30, flat_jpeg((9, 9, 9))[:300]], pa.large_binary())
    table = screen(PIXELS)(rows(["a", "b"], image=image))
    assert table["status"].to_pylist() == ["image_invalid"] * 2
    assert table["error"].to_pylist()[0] == "not_an_image"
    assert [c[0]["text"] for c in table["captions"].to_pylist()] == ["a", "b"]


def test_pictures_are_read_only_where_a_rule_needs_them() -> None:
    assert "image" not in ScreenStage(ScreenConfig.model_validate(QUICKSTART)).reads
    assert "image" in ScreenStage(ScreenConfig.model_validate(PIXELS)).reads


def test_personal_data_leave_the_row_everywhere_and_the_text_stays_a_candidate() -> None:
    table = screen(MASK)(rows(["a red dog, ann@example.org", "a red dog"]))
    assert table["text"].to_pylist() == ["a red dog, [email]", "a red dog"]
    assert [(c[0]["text"], c[0]["rule"]) for c in table["captions"].to_pylist()] == [
        ("a red dog, [email]", None),
        ("a red dog", None),
    ]


def test_zero_rows_still_get_the_column() -> None:
    assert screen(QUICKSTART)(rows([])).schema.field("captions").type == pa.list_(CAPTION)


EVERYTHING = {
    "image": [
        *QUICKSTART["image"],
        *PIXELS["image"],
        *UNSAFE["image"],
        {"kind": "one_of", "column": "licence", "values": ["cc*"]},
    ],
    "text": [
        *(
            {"kind": kind}
            for kind in ("not_empty", "not_file_name", "not_markup", "words", "characters", "letters", "repetition")
        ),
        {"kind": "language", "languages": ["en", "de"]},
        {"kind": "boilerplate"},
        {"kind": "pii"},
    ],
}
UPSTREAM_TYPE = pa.struct([("punsafe", pa.float64()), ("licence", pa.string())])
CARRIED = st.none() | st.fixed_dictionaries({"punsafe": st.none() | st.floats(), "licence": st.none() | st.text()})
ROW = st.tuples(st.none() | st.text(max_size=80), CARRIED, st.sampled_from([None, b"", b"junk", flat_jpeg((1, 2, 3))]))


@given(st.lists(ROW, max_size=6))
def test_no_rule_drops_reorders_or_raises(drawn: list[tuple[str | None, dict[str, Any] | None, bytes | None]]) -> None:
    upstream = pa.array([carried for _, carried, _ in drawn], UPSTREAM_TYPE)
    image = pa.array([data for _, _, data in drawn], pa.large_binary())
    before = rows([text for text, _, _ in drawn], upstream=upstream, image=image)
    after = screen(EVERYTHING)(before)
    assert after["row_id"].equals(before["row_id"])
    assert set(after["status"].to_pylist()) <= {"ok", "rule_rejected", "image_invalid"}
    for row in after.to_pylist():
        assert (row["status"] == "ok") == (row["error"] is None)
        assert [c["text"] for c in row["captions"]] == ([] if row["text"] is None else [row["text"]])


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
