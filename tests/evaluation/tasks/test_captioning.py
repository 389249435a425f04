from collections.abc import Callable
from pathlib import Path

import pytest

from capfilt.config.decoding import Greedy
from capfilt.config.downstream import CaptioningTask
from capfilt.errors import ConfigError
from capfilt.evaluation.captioning import cider_d
from capfilt.evaluation.tasks.base import Asked
from capfilt.evaluation.tasks.captioning import captioning


@pytest.mark.parametrize("family", ["med", "coca", "blip2"])
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
    with pytest.raises(ConfigError, match="captioning: expected a MED, CoCa or BLIP-2 of stage 1, found a SOHO"):
        captioning(CaptioningTask(kind="captioning", data=str(data / "test-pairs.parquet")), make_asked("soho"))
