from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from capfilt.config.downstream import RetrievalTask, VideoRetrievalTask
from capfilt.errors import ConfigError
from capfilt.evaluation.tasks.base import Asked
from capfilt.evaluation.tasks.data import Shown, evenly, read_task
from capfilt.evaluation.tasks.retrieval import clips, retrieval, video_retrieval
from capfilt.evaluation.tasks.similar import PairMatcher, clip_features, image_embeds, text_features


@pytest.mark.parametrize(("family", "reranked"), [("med", 16), ("coca", 0), ("soho", 24), ("blip2", 16)])
def test_each_family_retrieves_both_ways_as_it_can(
    family: str, reranked: int, data: Path, make_asked: Callable[..., Asked]
) -> None:
    found = retrieval(
        RetrievalTask(kind="retrieval", data=str(data / "test-pairs.parquet"), recall_at=[1, 12]), make_asked(family)
    )
    assert (found["n"], found["texts"], found["rerank_top_k"]) == (12, 24, reranked)
    assert found["image_r12"]["value"] == 1.0, "every picture is among the twelve there are"
    assert [found[name]["blind"] for name in ("image_r1", "image_r12", "text_r1")] == pytest.approx([1 / 12, 1, 2 / 24])
    none_of_two = 12 / 24 * 11 / 23  # that both texts of a picture are among the twelve that are not looked at
    assert found["text_r12"]["blind"] == pytest.approx(1 - none_of_two)
    assert found["text_r1"]["interval"][0] <= found["text_r1"]["value"] <= found["text_r1"]["interval"][1]


def test_a_coca_is_not_asked_to_rerank(data: Path, make_asked: Callable[..., Asked]) -> None:
    task = RetrievalTask(kind="retrieval", data=str(data / "test-pairs.parquet"), rerank_top_k=4)
    with pytest.raises(ConfigError, match=r"rerank_top_k: expected 0 for a CoCa"):
        retrieval(task, make_asked("coca"))


@torch.inference_mode()
def test_texts_are_read_as_far_as_the_network_was_trained_to(make_asked: Callable[..., Asked]) -> None:
    asked = make_asked("med")
    long = ["a red circle " * 20]
    whole, trained = asked.tokens(long), asked.tokens(long, as_trained=True)
    assert (whole[0].shape[1], trained[0].shape[1]) == (40, 30)
    assert torch.equal(text_features(asked, long), asked.model.text_features(*trained))


@pytest.mark.parametrize("family", ["med", "soho", "blip2"])
def test_a_pair_is_matched_as_it_would_be_alone(
    family: str, data: Path, make_asked: Callable[..., Asked], tmp_path: Path
) -> None:
    asked = make_asked(family, batch_size=3)
    rows = read_task(str(data / "test-pairs.parquet"), ("image", "captions"))[:4]
    texts = [text for row in rows for text in row["captions"]]
    shown = Shown([[row["image"]] for row in rows], asked.size, tmp_path / "spool", "x")
    embeds = image_embeds(asked, shown)
    image_P, text_P = np.array([0, 0, 1, 3, 3]), np.array([5, 1, 2, 7, 0])
    together = PairMatcher(asked, embeds, texts)(image_P, text_P)
    for image, text, logit in zip(image_P, text_P, together, strict=True):
        with torch.inference_mode():
            alone = asked.model.itm_logits(*asked.tokens([texts[text]]), embeds[image : image + 1])[0, 1]
        assert logit == pytest.approx(float(alone), abs=1e-5)


@pytest.mark.parametrize("family", ["med", "coca"])
def test_a_clip_is_the_mean_of_its_frames(family: str, data: Path, make_asked: Callable[..., Asked]) -> None:
    asked = make_asked(family)
    rows = read_task(str(data / "test-clips.parquet"), ("frames", "captions"))[:3]
    shown = clips(rows, 16, asked, "x")
    pixels_BFCHW = asked.normalised(shown.take(np.arange(3)))
    assert pixels_BFCHW.shape[:2] == (3, 16)
    with torch.inference_mode():
        each = [[asked.model.image_features(asked.model.encode_image(frame[None]))[0] for frame in clip] for clip in pixels_BFCHW]
    expected = torch.stack([F.normalize(torch.stack(features).mean(0), dim=0) for features in each])
    torch.testing.assert_close(clip_features(asked, shown), expected, atol=1e-5, rtol=0)
    if family == "coca":
        with torch.inference_mode():
            torch.testing.assert_close(asked.model.video_features(pixels_BFCHW), expected, atol=1e-5, rtol=0)


def test_the_frames_of_a_clip_are_spread_over_it(data: Path, make_asked: Callable[..., Asked], tmp_path: Path) -> None:
    asked = make_asked("coca")
    row = read_task(str(data / "test-clips.parquet"), ("frames",))[0]
    whole = Shown([row["frames"]], asked.size, tmp_path / "spool", "x").take(np.arange(1))
    assert torch.equal(clips([row], 4, asked, "x").take(np.arange(1)), whole[:, evenly(len(row["frames"]), 4)])


def test_clips_and_texts_find_each_other(data: Path, make_asked: Callable[..., Asked]) -> None:
    task = VideoRetrievalTask(kind="video_retrieval", data=str(data / "test-clips.parquet"), recall_at=[12])
    assert video_retrieval(task, make_asked("coca"))["text_r12"]["value"] == 1.0
    with pytest.raises(ConfigError, match="video_retrieval: expected a MED or CoCa, found a SOHO"):
        video_retrieval(task, make_asked("soho"))
