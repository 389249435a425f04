"""Scenes, held-out pairs and candidates of a very small web."""

import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.config.miniweb import MiniwebConfig
from capfilt.miniweb.language import describe
from capfilt.miniweb.world import Scene, World, sample_scene
from capfilt.schema import CAPTION


@pytest.fixture
def scenes() -> list[Scene]:
    config = MiniwebConfig()
    world, rng = World(config.preset, config.unseen, config.two_things), Random(0)
    return [sample_scene(world, rng) for _ in range(4)]


@pytest.fixture
def wrong_text() -> Callable[[Scene], str]:
    """A text that states something else than the scene."""

    def text(scene: Scene) -> str:
        thing = scene.things[0]
        colour = "red" if all(t.colour != "red" for t in scene.things) else "blue"
        assert all(t.colour != colour for t in scene.things)
        return f"a {colour} {thing.shape}"

    return text


@pytest.fixture
def heldout(tmp_path: Path, scenes: list[Scene]) -> str:
    rows = []
    for i, scene in enumerate(scenes):
        stream = io.BytesIO()
        Image.new("RGB", (12, 10), (i * 60, 200 - i * 50, 30)).save(stream, "PNG")
        texts = [describe(scene, Random(seed)) for seed in range(i % 2 + 1)]
        rows.append({"key": f"k{i}", "image": stream.getvalue(), "captions": texts})
    schema = pa.schema([("key", pa.string()), ("image", pa.binary()), ("captions", pa.list_(pa.string()))])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "heldout.parquet")
    return str(tmp_path / "heldout.parquet")


@pytest.fixture
def write_truth(tmp_path: Path) -> Callable[[list[dict[str, Any]]], str]:
    def write(rows: list[dict[str, Any]]) -> str:
        names = {
            "url": pa.string(),
            "uid": pa.string(),
            "key": pa.string(),
            "text_is_true": pa.bool_(),
            "noise_kind": pa.string(),
            "scene": pa.string(),
        }
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(names.items()))), tmp_path / "truth.parquet")
        return str(tmp_path / "truth.parquet")

    return write


@pytest.fixture
def write_candidates(tmp_path: Path) -> Callable[..., str]:
    """Rows as (url, [(origin, text, itm or None)])."""

    def write(rows: list[tuple[str, list[tuple[str, str, float | None]]]]) -> str:
        empty = dict.fromkeys(("captioner", "k", "log_prob", "rule", "error"))
        table = [
            {
                "row_id": f"c-{i}",
                "uid": f"uid of {url}",
                "url": url,
                "captions": [
                    {
                        **empty,
                        "origin": origin,
                        "text": text,
                        "scores": [] if itm is None else [{"filter": "f", "itm": itm, "itc": None}],
                    }
                    for origin, text, itm in texts
                ],
            }
            for i, (url, texts) in enumerate(rows)
        ]
        schema = pa.schema([*((name, pa.string()) for name in ("row_id", "uid", "url")), ("captions", pa.list_(CAPTION))])
        pq.write_table(pa.Table.from_pylist(table, schema), tmp_path / "candidates.parquet")
        return str(tmp_path / "candidates.parquet")

    return write
