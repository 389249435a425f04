import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from capfilt.captioners import Caption, Captioner
from capfilt.config.round import CaptionConfig, CustomModel
from capfilt.errors import ConfigError
from capfilt.schema import CAPTION, COLUMNS
from capfilt.stages.base import Guarded, RowStage
from capfilt.stages.caption import CaptionStage

WEB = {"text": "web", "origin": "web", "captioner": None, "k": None, "log_prob": None, "rule": None, "error": None, "scores": []}


class Shades:
    """Says the shade of each picture and the seed it was given; remembers how many it saw at once."""

    name = "shades"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def caption(self, images: Sequence[Image.Image], *, seeds: Sequence[Sequence[int]]) -> list[list[Caption]]:
        self.batches.append(len(images))
        shades = [image.getpixel((0, 0)) for image in images]
        assert all(image.mode == "RGB" for image in images)
        return [
            [Caption("" if s == (0, 0, 0) else f"{s[0]} {seed}", -1.5) for seed in own]
            for s, own in zip(shades, seeds, strict=True)
        ]


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


def table(*rows: dict[str, Any]) -> pa.Table:
    columns: dict[str, list[Any]] = {column.name: [] for column in COLUMNS}
    for number, row in enumerate(rows):
        whole = {
            "row_id": f"c-{number:06d}",
            "uid": f"uid {number}",
            "status": "ok",
            "image": png(10 * number + 10),
            "captions": [WEB],
            **row,
        }
        for name, values in columns.items():
            values.append(whole.get(name))
    return pa.table({column.name: pa.array(columns[column.name], column.type) for column in COLUMNS})


def stage(
    captioner: Captioner | None = None, *, texts: int = 1, batch_size: int = 4, seed: int = 0, number: int = 1
) -> CaptionStage:
    chosen = CustomModel(kind="custom", target="a:B")
    config = CaptionConfig(captioner=chosen, captions_per_image=texts, batch_size=batch_size)
    return CaptionStage(config, captioner=captioner or Shades(), seed=seed, round_number=number)


def captions(done: pa.Table) -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = done["captions"].to_pylist()
    return found


def test_it_is_a_row_stage_and_the_fake_a_captioner() -> None:
    assert isinstance(stage(), RowStage)
    assert isinstance(Shades(), Captioner)


def test_synthetic_texts_are_added_behind_the_web_text() -> None:
    (own,) = captions(stage(texts=2)(table({})))
    assert own[0] == WEB
    assert [text["k"] for text in own[1:]] == [0, 1]
    for text in own[1:]:
        assert text["text"].startswith("10 ")
        told = {name: text[name] for name in ("origin", "captioner", "log_prob", "rule", "error", "scores")}
        assert told == {"origin": "synthetic", "captioner": "shades", "log_prob": -1.5, "rule": None, "error": None, "scores": []}


def test_a_picture_without_a_web_text_gets_a_synthetic_one() -> None:
    (own,) = captions(stage()(table({"captions": []})))
    assert [text["origin"] for text in own] == ["synthetic"]


def test_an_unreadable_picture_is_told_and_its_row_stays() -> None:
    before = table({}, {"image": b"no picture"}, {"image": png(99)[:-30]}, {})
    done = stage(texts=2)(before)
    assert done["row_id"].equals(before["row_id"])
    assert done["status"].to_pylist() == ["ok", "image_invalid", "image_invalid", "ok"]
    assert done["error"].to_pylist() == [None, "not_an_image", "truncated", None]
    assert [len(own) for own in captions(done)] == [3, 1, 1, 3]
    assert captions(done)[3][1]["text"].startswith("40 "), "the rows behind it keep their own texts"


def test_a_chunk_of_unreadable_pictures_asks_no_captioner() -> None:
    captioner = Shades()
    assert stage(captioner)(table({"image": b""}, {"image": b"x"}))["status"].to_pylist() == ["image_invalid"] * 2
    assert captioner.batches == []


def test_an_empty_text_is_marked_and_stays() -> None:
    done = stage()(table({"image": png(0)}, {}))
    assert captions(done)[0][1]["text"] == ""
    assert [own[1]["error"] for own in captions(done)] == ["empty_caption", None]
    assert done["status"].to_pylist() == ["ok", "ok"]


def test_batches_are_cut_in_order_from_the_rows() -> None:
    captioner = Shades()
    stage(captioner)(table(*[{}] * 9))
    assert captioner.batches == [4, 4, 1]


def test_chance_belongs_to_the_row_and_not_to_its_place() -> None:
    rows = [{"uid": f"u{i}", "image": png(50)} for i in range(5)]
    straight = captions(stage(texts=2)(table(*rows)))
    turned = captions(stage(texts=2, batch_size=2)(table(*rows[::-1])))
    assert turned == straight[::-1]
    assert len({text["text"] for own in straight for text in own[1:]}) == 10


@pytest.mark.parametrize("change", [{"seed": 1}, {"number": 2}], ids=["run seed", "round"])
def test_another_seed_or_round_gives_other_chances(change: dict[str, int]) -> None:
    assert captions(stage(**change)(table({})))[0][1]["text"] != captions(stage()(table({})))[0][1]["text"]


def test_zero_rows_come_back_as_zero_rows() -> None:
    done = stage()(table())
    assert done.num_rows == 0
    assert done.schema.field("captions").type == pa.list_(CAPTION)


def test_behind_the_wrapper_other_rows_pass_untouched() -> None:
    before = table({}, {"status": "download_failed", "error": "http_404", "image": None, "captions": []}, {}, {"image": b"x"})
    done = Guarded(stage())(before)
    assert done["status"].to_pylist() == ["ok", "download_failed", "ok", "image_invalid"]
    assert done["error"].to_pylist() == [None, "http_404", None, "not_an_image"]
    assert [len(own) for own in captions(done)] == [2, 0, 2, 1]
    assert done.schema.equals(before.schema)


@pytest.mark.parametrize("rows", [0, 2])
def test_behind_the_wrapper_a_chunk_without_a_healthy_row_keeps_its_columns(rows: int) -> None:
    before = table(*[{"status": "opted_out", "error": "robots_txt:disallow", "image": None}] * rows)
    assert Guarded(stage())(before).equals(before)


@pytest.mark.parametrize(
    ("given", "found"),
    [(["a", "b"], "2 x str"), ([["a"], ["b"]], "2 x 1 x str"), ([[Caption("a", 0.0)]], "1 x 1 x Caption"), (None, "NoneType")],
)
def test_a_captioner_of_ones_own_that_gives_something_else_is_told_what_is_expected(given: Any, found: str) -> None:
    class Own:
        name = "own"

        def caption(self, images: Any, *, seeds: Any) -> Any:
            return given

    expected = rf"expected own to give, for each of 2 pictures, a list of capfilt\.captioners\.Caption.*, found {found}\. Correct"
    with pytest.raises(ConfigError, match=expected):
        stage(Own())(table({}, {}))
