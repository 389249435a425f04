"""Which models a round uses."""

import pytest

from capfilt.config.load import load_pipeline
from capfilt.config.round import CustomModel, NamedModel, TrainedModel
from capfilt.run.jobs import models_of_round

MED = "{kind: med, checkpoint: a}"
OTHER = "{kind: coca, checkpoint: b, name: second}"
CUSTOM = '{kind: custom, target: "a:B"}'


def kinds(captioner: str, number: int, *settings: str) -> list[str]:
    pipeline = load_pipeline("quickstart", ["rounds=3", f"caption.captioner={captioner}", *settings])
    models = models_of_round(pipeline, number).captioners
    names = {TrainedModel: "trained", CustomModel: "custom"}
    return [names.get(type(model), model.checkpoint if isinstance(model, NamedModel) else "?") for model in models]


@pytest.mark.parametrize(
    ("captioner", "later"),
    [
        (MED, ["trained"]),
        (f"[{MED}, {OTHER}]", ["trained", "b"]),
        (f"[{CUSTOM}, {MED}, {OTHER}]", ["custom", "trained", "b"]),
        (f"[{OTHER}, {{kind: trained}}]", ["b", "trained"]),
        (CUSTOM, ["custom"]),
    ],
)
def test_from_the_second_round_on_the_first_checkpoint_gives_way(captioner: str, later: list[str]) -> None:
    first = kinds(captioner, 1)
    assert first == [name if name != "trained" or "trained" in captioner else "a" for name in later]
    assert kinds(captioner, 2) == kinds(captioner, 3) == later


def test_what_no_round_trains_stays() -> None:
    assert kinds(MED, 2, "finetune.captioner=null", "evaluate=null") == ["a"]
