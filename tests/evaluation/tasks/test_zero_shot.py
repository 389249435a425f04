from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from capfilt.config.downstream import ZeroShotTask
from capfilt.errors import ConfigError, InputError
from capfilt.evaluation.tasks.base import Asked
from capfilt.evaluation.tasks.data import Shown, read_task
from capfilt.evaluation.tasks.similar import image_embeds
from capfilt.evaluation.tasks.zero_shot import zero_shot

TEMPLATES = ["a picture of a {label}", "a small {label} on grass"]


@pytest.mark.parametrize("family", ["med", "coca"])
def test_the_features_of_a_labels_texts_are_averaged(
    family: str, data: Path, make_asked: Callable[..., Asked], tmp_path: Path
) -> None:
    asked = make_asked(family)
    path = str(data / "train-labelled.parquet")
    task = ZeroShotTask(kind="zero_shot", data=path, column="colour", templates=TEMPLATES)
    found = zero_shot(task, asked)
    rows = read_task(path, ("image", "colour"))
    names = sorted({row["colour"] for row in rows})
    shown = Shown([[row["image"]] for row in rows], asked.size, tmp_path / "spool", "x")
    right = 0
    with torch.inference_mode():
        image_NE = asked.model.image_features(image_embeds(asked, shown))
        of_class = []
        for name in names:
            each = [asked.model.text_features(*asked.tokens([text.format(label=name)]))[0] for text in TEMPLATES]
            of_class.append(F.normalize(torch.stack(each).mean(0), dim=0))
        nearest = (image_NE @ torch.stack(of_class).T).argmax(1)
    right = sum(names[i] == row["colour"] for i, row in zip(nearest.tolist(), rows, strict=True))
    assert found["accuracy"]["value"] == pytest.approx(right / len(rows))
    assert found["classes"] == len(names)


def test_a_blip2_takes_its_best_query(data: Path, make_asked: Callable[..., Asked]) -> None:
    task = ZeroShotTask(kind="zero_shot", data=str(data / "test-labelled.parquet"), column="colour")
    found = zero_shot(task, make_asked("blip2"))
    assert 0 <= found["accuracy"]["value"] <= 1
    assert found == zero_shot(task, make_asked("blip2", batch_size=5))


def test_a_label_that_is_none_of_those_named_is_refused(data: Path, make_asked: Callable[..., Asked]) -> None:
    task = ZeroShotTask(kind="zero_shot", data=str(data / "test-labelled.parquet"), column="colour", labels=["pink"])
    with pytest.raises(InputError, match="expected labels among pink"):
        zero_shot(task, make_asked("coca"))


def test_a_network_without_a_common_space_is_refused(data: Path, make_asked: Callable[..., Asked]) -> None:
    with pytest.raises(ConfigError, match="zero_shot: expected a MED, CoCa or BLIP-2 of stage 1, found a SOHO"):
        zero_shot(ZeroShotTask(kind="zero_shot", data=str(data / "test-labelled.parquet")), make_asked("soho"))
