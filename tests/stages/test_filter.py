import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from capfilt.config.round import CustomModel, FilterConfig
from capfilt.errors import ConfigError
from capfilt.filters import Filter, Scores
from capfilt.schema import CAPTION, COLUMNS, EMBEDDING, embedding_type
from capfilt.stages.base import Guarded, RowStage
from capfilt.stages.filter import FilterStage


class Lengths:
    """ITM from the text's length, embedding from the picture's shade; remembers what it was asked."""

    name, dim = "lengths", 3

    def __init__(self, *, with_itm: bool = True, with_itc: bool = True) -> None:
        self.asked: list[list[list[str]]] = []
        self.with_itm, self.with_itc = with_itm, with_itc

    def score(self, images: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> Scores:
        self.asked.append([list(own) for own in texts])
        itm = [[len(text) / 64 for text in own] for own in texts]
        itc = [[-len(text) / 64 for text in own] for own in texts]
        angle = np.array([image.getpixel((0, 0))[0] / 255 for image in images], dtype=np.float32)
        embedding = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
        return Scores(itm if self.with_itm else None, itc if self.with_itc else None, embedding)


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


def text(words: str, **facts: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("captioner", "k", "log_prob", "rule", "error"))
    return {**empty, "text": words, "origin": "web", "scores": [], **facts}


def table(*rows: dict[str, Any]) -> pa.Table:
    columns: dict[str, list[Any]] = {column.name: [] for column in COLUMNS}
    for number, row in enumerate(rows):
        whole = {"row_id": f"c-{number:06d}", "status": "ok", "image": png(10 * number), "captions": [text("web")], **row}
        for name, values in columns.items():
            values.append(whole.get(name))
    return pa.table({column.name: pa.array(columns[column.name], column.type) for column in COLUMNS})


def stage(scorer: Filter | None = None, batch_size: int = 4) -> FilterStage:
    config = FilterConfig(filter=CustomModel(kind="custom", target="a:B"), batch_size=batch_size)
    return FilterStage(config, scorer=scorer or Lengths())


def scores(done: pa.Table) -> list[list[list[dict[str, Any]]]]:
    return [[caption["scores"] for caption in own] for own in done["captions"].to_pylist()]


def test_it_is_a_row_stage_and_the_fake_a_filter() -> None:
    assert isinstance(stage(), RowStage)
    assert isinstance(Lengths(), Filter)


def test_every_text_gets_a_score_of_its_own() -> None:
    done = stage()(table({"captions": [text("a"), text("four"), text("")]}, {"captions": []}, {"captions": [text("eightfold")]}))
    told = [[(found["itm"], found["itc"]) for own in row for found in own] for row in scores(done)]
    assert told == [[(1 / 64, -1 / 64), (4 / 64, -4 / 64), (0, 0)], [], [(9 / 64, -9 / 64)]]
    assert {found["filter"] for row in scores(done) for own in row for found in own} == {"lengths"}


def test_rejected_and_failed_texts_get_no_score_and_are_not_asked_about() -> None:
    scorer = Lengths()
    own = [
        text("IMG_1.jpg", rule="not_file_name"),
        text("fine"),
        text("", error="empty_caption", origin="synthetic"),
        text("good"),
    ]
    done = stage(scorer)(table({"captions": own}))
    assert scorer.asked == [[["fine", "good"]]]
    assert [len(found) for found in scores(done)[0]] == [0, 1, 0, 1]
    kept = [{**caption, "scores": []} for caption in done["captions"].to_pylist()[0]]
    assert kept == own, "only scores are written"


def test_earlier_scores_are_kept() -> None:
    before = {"filter": "another", "itm": 0.5, "itc": None}
    ((found,),) = scores(stage()(table({"captions": [text("abcd", scores=[before])]})))
    assert found == [before, {"filter": "lengths", "itm": 4 / 64, "itc": -4 / 64}]


@pytest.mark.parametrize(("absent", "given"), [("itm", "itc"), ("itc", "itm")])
def test_what_a_family_has_not_is_null(absent: str, given: str) -> None:
    (((found,),),) = scores(stage(Lengths(**{f"with_{absent}": False}))(table({})))
    assert found[absent] is None
    assert found[given] is not None


def test_the_embedding_is_the_pictures() -> None:
    done = stage(batch_size=2)(table({}, {}, {}, {"captions": []}))
    assert done.schema.field(EMBEDDING).type == embedding_type(3)
    found = np.array(done[EMBEDDING].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(found[:, 1], np.sin(np.arange(4) * 10 / 255), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)


def test_an_unreadable_picture_is_told_and_its_row_stays() -> None:
    before = table({}, {"image": b"no picture"}, {"captions": [text("third")]})
    done = stage()(before)
    assert done["row_id"].equals(before["row_id"])
    assert done["status"].to_pylist() == ["ok", "image_invalid", "ok"]
    assert done["error"].to_pylist() == [None, "not_an_image", None]
    assert done[EMBEDDING].is_null().to_pylist() == [False, True, False]
    assert [len(own[0]) for own in scores(done)] == [1, 0, 1]
    assert scores(done)[2][0][0]["itm"] == 5 / 64


def test_a_chunk_of_unreadable_pictures_asks_no_filter() -> None:
    scorer = Lengths()
    done = stage(scorer)(table({"image": b""}, {"image": b"x"}))
    assert done["status"].to_pylist() == ["image_invalid"] * 2
    assert done[EMBEDDING].null_count == 2
    assert scorer.asked == []


def test_batches_are_cut_in_order_from_the_rows() -> None:
    scorer = Lengths()
    stage(scorer)(table(*[{}] * 9))
    assert [len(asked) for asked in scorer.asked] == [4, 4, 1]


def test_zero_rows_come_back_with_all_columns() -> None:
    done = stage()(table())
    assert done.num_rows == 0
    assert done.schema.field(EMBEDDING).type == embedding_type(3)
    assert done.schema.field("captions").type == pa.list_(CAPTION)


def test_behind_the_wrapper_other_rows_pass_untouched_and_have_no_embedding() -> None:
    before = table({"status": "download_failed", "error": "timeout", "image": None, "captions": []}, {}, {"image": b"x"}, {})
    done = Guarded(stage())(before)
    assert done["status"].to_pylist() == ["download_failed", "ok", "image_invalid", "ok"]
    assert done["error"].to_pylist() == ["timeout", None, "not_an_image", None]
    assert done[EMBEDDING].is_null().to_pylist() == [True, False, True, False]
    assert done.drop_columns([EMBEDDING]).schema.equals(before.schema)


@pytest.mark.parametrize("rows", [0, 2])
def test_behind_the_wrapper_a_chunk_without_a_healthy_row_gets_an_empty_embedding(rows: int) -> None:
    before = table(*[{"status": "opted_out", "error": "robots_txt:disallow", "image": None}] * rows)
    done = Guarded(stage())(before)
    assert done.drop_columns([EMBEDDING]).equals(before)
    assert done[EMBEDDING].null_count == rows
    assert done.schema.field(EMBEDDING).type == embedding_type(3)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([[0.5], [0.5]], "list"),
        (Scores([[0.5], [0.5]], None, np.ones((2, 4), np.float32)), r"an embedding of shape \[2, 4\]"),
        (Scores([[0.5], [0.5]], None, np.ones(3, np.float32)), r"an embedding of shape \[3\]"),
        (Scores(None, [[0.5]], np.ones((2, 3), np.float32)), "itc of another number of texts"),
        (Scores([[0.5], []], None, np.ones((2, 3), np.float32)), "itm of another number of texts"),
    ],
)
def test_a_filter_of_ones_own_that_gives_something_else_is_told_what_is_expected(given: Any, found: str) -> None:
    class Own(Lengths):
        def score(self, images: Any, texts: Any) -> Any:
            return given

    with pytest.raises(ConfigError, match=rf"expected lengths to give capfilt\.filters\.Scores.*found {found}\. Correct"):
        stage(Own())(table({}, {}))
