"""What a MED's filter does for speed: see test_protocol.py for what every filter owes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL.Image import Image

from capfilt.filters import filter_of
from capfilt.modeling.inference import Inference

Paint = Callable[[int], Image]
SHORT, LONG = "a red disc", "a small blue star a small blue star a small red disc"


def test_keys_and_values_of_a_picture_are_made_once_for_texts_of_any_length(
    med_folder: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = filter_of(Inference.load(str(med_folder), batch_size=4, dtype="float32", device="cpu"))
    tower = scorer.network.model.text_encoder
    image_kv, calls = tower.image_kv, []
    monkeypatch.setattr(tower, "image_kv", lambda embeds: calls.append(len(embeds)) or image_kv(embeds))
    scorer.score([paint(i) for i in range(4)], [[SHORT, LONG], [LONG], [], [SHORT] * 3])
    assert calls == [4]
