from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capfilt.config.downstream import Fit, FrozenClassifierTask, VideoClassificationTask
from capfilt.evaluation.tasks.base import Asked
from capfilt.evaluation.tasks.data import Shown, read_task
from capfilt.evaluation.tasks.frozen import FrozenTokens, frozen_classifier, video_classification
from capfilt.miniweb.tasks import build_tasks


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("more")
    build_tasks(folder, rows=120, seed=1, names=("labelled",))
    return folder


@pytest.mark.parametrize("family", ["med", "coca"])
def test_a_new_pooler_on_random_frozen_features_tells_colours(family: str, more: Path, make_asked: Callable[..., Asked]) -> None:
    asked = make_asked(family)
    before = {name: tensor.clone() for name, tensor in asked.model.state_dict().items()}
    task = FrozenClassifierTask(
        kind="frozen_classifier",
        train=str(more / "train-labelled.parquet"),
        data=str(more / "test-labelled.parquet"),
        columns=["colour"],
        fit=Fit(steps=160, lr=0.003, threads=1),
    )
    found = frozen_classifier(task, asked)
    assert found["accuracy"]["value"] > found["accuracy"]["majority"] + 0.15
    after = asked.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), "frozen, to the bit"


def test_several_heads_share_one_encoding_of_each_picture(
    data: Path, make_asked: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = make_asked("coca")
    encoded: list[int] = []
    encode = asked.model.image_tokens

    def counting(pixels: Any) -> Any:
        encoded.append(len(pixels))
        return encode(pixels)

    monkeypatch.setattr(asked.model, "image_tokens", counting)
    task = FrozenClassifierTask(
        kind="frozen_classifier",
        train=str(data / "train-labelled.parquet"),
        data=str(data / "test-labelled.parquet"),
        columns=["colour", "shape"],
        fit=Fit(steps=12, batch_size=8),
    )
    found = frozen_classifier(task, asked)
    assert {"accuracy_colour", "accuracy_shape"} <= found.keys()
    # The first of each file tells how large its tokens are.
    assert sum(encoded) == (1 + 24) + (1 + 12), "once each, for two heads and four epochs"


def test_tokens_that_do_not_fit_into_memory_are_made_anew_and_equal(
    data: Path, make_asked: Callable[..., Asked], tmp_path: Path
) -> None:
    asked = make_asked("coca")
    rows = read_task(str(data / "test-labelled.parquet"), ("image",))
    shown = Shown([[row["image"]] for row in rows], asked.size, tmp_path / "spool", "x")
    wanted = np.array([3, 0, 7])
    kept, anew = FrozenTokens(asked, shown), FrozenTokens(asked, shown, cache_bytes=0)
    torch.testing.assert_close(kept.take(wanted), anew.take(wanted), atol=1e-5, rtol=0)


@pytest.mark.parametrize("positions", ["none", "learned"])
def test_actions_are_learnt_from_the_tokens_of_all_frames(positions: Any, data: Path, make_asked: Callable[..., Asked]) -> None:
    task = VideoClassificationTask(
        kind="video_classification",
        train=str(data / "train-clips.parquet"),
        data=str(data / "train-clips.parquet"),
        frames=4,
        frame_positions=positions,
        fit=Fit(steps=60, batch_size=24, lr=0.01, threads=1),
    )
    found = video_classification(task, make_asked("coca"))
    assert found["accuracy"]["value"] > found["accuracy"]["majority"] + 0.1
