"""What every network's filter does for speed: see test_protocol.py for what it owes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL.Image import Image

from capfilt.filters import filter_of
from capfilt.filters.network import fixed_size
from capfilt.modeling.inference import Inference

Paint = Callable[[int], Image]
SHORT, LONG = "a red disc", "a small blue star a small blue star a small red disc"


def test_all_texts_of_a_picture_share_its_encoding(med_folder: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = filter_of(Inference.load(str(med_folder), batch_size=4, dtype="float32", device="cpu"))
    model = scorer.network.model
    encode, batches = model.encode_image, []
    monkeypatch.setattr(model, "encode_image", lambda pixels: batches.append(len(pixels)) or encode(pixels))
    scorer.score([paint(i) for i in range(5)], [[SHORT, LONG, "a star"]] * 5)
    assert batches == [4, 4]


@pytest.mark.parametrize(
    ("rows", "size", "expected"), [(64, 64, 64), (33, 64, 64), (32, 64, 32), (3, 64, 8), (3, 4, 4), (1, 12, 12)]
)
def test_a_buckets_last_batch_has_a_fixed_size_that_wastes_little(rows: int, size: int, expected: int) -> None:
    assert fixed_size(rows, size) == expected
