from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from capfilt.config.downstream import EntailmentTask, Fit, TwoImagesTask
from capfilt.errors import ConfigError
from capfilt.evaluation.tasks.base import Asked
from capfilt.evaluation.tasks.joint import entailment, two_images
from capfilt.modeling.families import Loaded


@pytest.mark.parametrize("family", ["med", "coca", "soho"])
@pytest.mark.parametrize("kind", ["entailment", "two_images"])
def test_a_network_learns_the_statements_it_is_shown(
    family: str, kind: str, data: Path, make_asked: Callable[..., Asked], tmp_path: Path
) -> None:
    asked = make_asked(family)
    before = {name: tensor.clone() for name, tensor in asked.model.state_dict().items()}
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(data / f"train-{kind}.parquet").slice(0, 12), few)
    common: Any = {"train": str(few), "data": str(few), "fit": Fit(steps=40, batch_size=12, lr=0.005, threads=1)}
    if kind == "entailment":
        found = entailment(EntailmentTask(kind="entailment", **common), asked)
    else:
        found = two_images(TwoImagesTask(kind="two_images", **common), asked)
    assert found["accuracy"]["value"] > 0.9 > found["accuracy"]["majority"]
    after = asked.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()), "a copy learns, not the model"


def test_a_med_may_read_two_pictures_apart_and_the_others_read_them_in_no_other_way(
    data: Path, make_asked: Callable[..., Asked]
) -> None:
    files: Any = {"train": str(data / "train-two_images.parquet"), "data": str(data / "test-two_images.parquet")}
    task = TwoImagesTask(kind="two_images", fit=Fit(steps=1), **files)
    assert two_images(task, make_asked("med"))["by"] == "merge"
    assert two_images(task.model_copy(update={"by": "apart"}), make_asked("med"))["by"] == "apart"
    with pytest.raises(ConfigError, match=r"two_images\.by: expected apart for a CoCa, .* found merge"):
        two_images(task.model_copy(update={"by": "merge"}), make_asked("coca"))


def test_a_network_that_reads_no_text_with_a_picture_is_refused(
    data: Path, make_loaded: Callable[[str], Loaded], tmp_path: Path
) -> None:
    loaded = make_loaded("med")
    clip_cap: Any = torch.nn.Linear(1, 1)
    asked = Asked(Loaded(clip_cap, loaded.architecture, loaded.tokenizer), tmp_path, "cpu", 0, 10, 8)
    task = EntailmentTask(
        kind="entailment", train=str(data / "train-entailment.parquet"), data=str(data / "test-entailment.parquet")
    )
    with pytest.raises(ConfigError, match="entailment: expected a MED, CoCa or SOHO, found a Linear"):
        entailment(task, asked)
