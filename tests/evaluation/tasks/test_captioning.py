from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from capfilt.config.decoding import Greedy
from capfilt.config.downstream import CaptioningTask
from capfilt.errors import ConfigError, InputError
from capfilt.evaluation.captioning import cider_d
from capfilt.evaluation.tasks.able import check
from capfilt.evaluation.tasks.base import Asked
from capfilt.evaluation.tasks.captioning import captioning
from capfilt.evaluation.tasks.data import read_task
from capfilt.modeling.families import Loaded


@pytest.mark.parametrize("family", ["med", "coca", "blip2", "blip2_gpt", "blip2_t5", "clipcap"])
def test_captions_are_scored_without_their_prompt(family: str, data: Path, make_asked: Callable[..., Asked]) -> None:
    task = CaptioningTask(kind="captioning", data=str(data / "test-pairs.parquet"), decode=Greedy(min_length=8, max_length=12))
    asked = make_asked(family, batch_size=5)
    found = captioning(task, asked)
    assert found["n"] == 12
    texts = [example["caption"] for example in found["examples"]]
    assert all(text and not text.startswith("a picture of") for text in texts)
    assert found == captioning(task, make_asked(family, batch_size=5)), "nothing is left to chance"
    few = cider_d(texts, [example["references"] for example in found["examples"]])
    assert len(few) == 8
    assert min(few) >= 0


def test_a_network_that_writes_nothing_is_refused(data: Path, make_asked: Callable[..., Asked]) -> None:
    with pytest.raises(ConfigError, match=r"captioning: expected a MED, CoCa, .* found a SOHO"):
        captioning(CaptioningTask(kind="captioning", data=str(data / "test-pairs.parquet")), make_asked("soho"))


@pytest.fixture
def stored(data: Path, make_asked: Callable[..., Asked], tmp_path: Path) -> str:
    """The held-out pairs with the embeddings that the ClipCap's image side makes of them, and no pictures."""
    asked = make_asked("clipcap")
    rows = read_task(str(data / "test-pairs.parquet"), ("image", "captions"))
    shown = asked.show([[row["image"]] for row in rows], "stored", "x")
    with torch.inference_mode():
        embed_NE = asked.model.encode_image(asked.normalised(shown.take(np.arange(len(rows)))[:, 0]))
    path = tmp_path / "stored.parquet"
    pq.write_table(pa.table({"vector": embed_NE.tolist(), "captions": [row["captions"] for row in rows]}), path)
    return str(path)


def test_a_clipcap_writes_the_same_of_stored_embeddings(data: Path, stored: str, make_asked: Callable[..., Asked]) -> None:
    how = Greedy(min_length=6, max_length=12)
    seen = captioning(CaptioningTask(kind="captioning", data=str(data / "test-pairs.parquet"), decode=how), make_asked("clipcap"))
    asked = make_asked("clipcap")
    asked.model.embedder = None
    read = captioning(CaptioningTask(kind="captioning", data=stored, embedding="vector", decode=how), asked)
    assert read == seen


def test_embeddings_of_another_width_are_told_with_their_row(stored: str, make_asked: Callable[..., Asked]) -> None:
    table = pq.read_table(stored)
    vectors = table["vector"].to_pylist()
    vectors[3] = vectors[3][:-1]
    pq.write_table(table.set_column(0, "vector", pa.array(vectors)), stored)
    with pytest.raises(InputError, match="expected embeddings of width 16 in column vector, found 15 in row 3"):
        captioning(CaptioningTask(kind="captioning", data=stored, embedding="vector"), make_asked("clipcap"))


def test_a_clipcap_without_an_image_side_is_told_to_name_a_column(data: Path, make_loaded: Callable[[str], Loaded]) -> None:
    loaded = make_loaded("clipcap")
    blind = Loaded(loaded.model, loaded.architecture.model_copy(update={"image": None}), loaded.tokenizer)
    task = CaptioningTask(kind="captioning", data=str(data / "test-pairs.parquet"))
    with pytest.raises(ConfigError, match=r"captioning\.embedding: expected a column of stored embeddings .* Name the column"):
        check(task, blind)
