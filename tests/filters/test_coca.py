"""What a CoCa's filter alone owes: see test_protocol.py for the rest."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL.Image import Image

from capfilt.filters import filter_of
from capfilt.modeling.build import build
from capfilt.modeling.families import Loaded, load_network
from capfilt.modeling.inference import Inference

Paint = Callable[[int], Image]


@pytest.mark.parametrize(("position", "widths"), [("padded", [24]), ("text", [8, 16])])
def test_a_released_cocas_texts_are_padded_to_their_full_length(
    position: str, widths: list[int], tiny_folder: Callable[[str], Path], paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = load_network(tiny_folder("coca"))
    text = trained.architecture.text.model_copy(update={"cls_position": position})
    architecture = trained.architecture.model_copy(update={"text": text})
    loaded = Loaded(build(architecture), architecture, trained.tokenizer)
    scorer = filter_of(Inference("coca", loaded, batch_size=4, dtype="float32", device="cpu"))
    seen, features = [], scorer.network.model.text_features
    monkeypatch.setattr(scorer.network.model, "text_features", lambda ids, mask: seen.append(ids.shape[1]) or features(ids, mask))
    scorer.score([paint(0)], [["a red disc", "a small blue star a small blue star"]])
    assert seen == widths
