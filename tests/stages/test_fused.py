"""Caption and filter as one stage give what they give one after the other, whatever the batches and the damage."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from capfilt.captioners import Caption
from capfilt.config.round import CaptionConfig, CustomModel, FilterConfig
from capfilt.filters import Scores
from capfilt.schema import CAPTION
from capfilt.stages import pictures
from capfilt.stages.base import Guarded
from capfilt.stages.caption import CaptionStage
from capfilt.stages.filter import FilterStage
from capfilt.stages.fused import Fused
from capfilt.stages.pictures import Remembered

MODEL = CustomModel(kind="custom", target="a:B")
Stage = Callable[[pa.Table], pa.Table]


class TellsItsBatch:
    """A captioner and filter whose answers name the whole batch, so that another cut shows."""

    name, dim = "batch", 1

    def caption(self, images: Any, *, seeds: Any) -> list[list[Caption]]:
        batch = shades(images)
        return [[Caption(f"{batch} {own} {seed % 97}", 0.0) for seed in row] for own, row in zip(batch, seeds, strict=True)]

    def score(self, images: Any, texts: Any) -> Scores:
        batch = shades(images)
        itm = [[sum(batch) + len(text) / 100 for text in row] for row in texts]
        return Scores(itm, None, np.ones((len(images), 1), dtype=np.float32) * len(batch))


def shades(images: Any) -> list[int]:
    return [image.getpixel((0, 0))[0] for image in images]


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(out, "PNG")
    return out.getvalue()


def table_of(rows: list[str]) -> pa.Table:
    web = {"text": "w", "origin": "web", **dict.fromkeys(("captioner", "k", "log_prob", "rule", "error")), "scores": []}
    names = [str(i) for i in range(len(rows))]
    return pa.table(
        {
            "row_id": names,
            "uid": names,
            "status": pa.array(["download_failed" if row == "gone" else "ok" for row in rows], pa.string()),
            "error": pa.nulls(len(rows), pa.string()),
            "image": pa.array([b"no picture" if row == "broken" else png(i) for i, row in enumerate(rows)], pa.large_binary()),
            "captions": pa.array([[web]] * len(rows), pa.list_(CAPTION)),
        }
    )


def stages(batch: int, decode: Any = pictures.decode_rgb) -> tuple[Guarded, Guarded]:
    model = TellsItsBatch()
    config = CaptionConfig(captioner=MODEL, batch_size=batch)
    return (
        Guarded(CaptionStage(config, captioner=model, seed=0, round_number=1, decode=decode)),
        Guarded(FilterStage(FilterConfig(filter=MODEL, batch_size=batch), scorer=model, decode=decode)),
    )


@settings(max_examples=60)
@given(rows=st.lists(st.sampled_from(["ok", "ok", "gone", "broken"]), max_size=14), batch=st.integers(1, 5))
def test_one_stage_gives_what_two_give(rows: list[str], batch: int) -> None:
    table = table_of(rows)
    caption, score = stages(batch)
    expected = score(caption(table))
    found = Guarded(Fused(*stages(batch, Remembered(batch)), batch_size=batch))(table)
    assert found.column_names == expected.column_names
    assert found.to_pylist() == expected.to_pylist()
    assert found.schema == expected.schema


def test_each_picture_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(pictures, "decode_rgb", lambda data, covering: seen.append(data) or Image.open(io.BytesIO(data)))
    table = table_of(["ok"] * 7)
    Fused(*stages(3, Remembered(3)), batch_size=3)(table)
    assert seen == table["image"].to_pylist()
    caption, score = stages(3, Remembered(3))
    score(caption(table))  # one after the other: the memory of three pictures helps little, and holds no more
    assert len(seen) > 7 + 7


def test_it_says_which_stage_was_at_work_when_it_failed() -> None:
    def fails(table: pa.Table) -> pa.Table:
        raise RuntimeError

    caption, score = stages(2)
    fused = Fused(caption, score, batch_size=2)
    monkey: Any = fused
    monkey._score = fails
    with pytest.raises(RuntimeError):
        fused(table_of(["ok"]))
    assert fused.at == "filter"
    monkey._caption = fails
    with pytest.raises(RuntimeError):
        fused(table_of(["ok"]))
    assert fused.at == "caption"
