import json
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.captioners import Caption
from capfilt.config.evaluate import CaptioningConfig, EvaluateConfig, FilterQualityConfig, RetrievalConfig
from capfilt.config.select import SelectConfig
from capfilt.errors import ConfigError, InputError
from capfilt.evaluation import run
from capfilt.evaluation.truth import read_heldout
from capfilt.miniweb.language import describe


class FakeScorer:
    """A model that knows the first three pictures' texts and takes the last two pictures for each other."""

    def __init__(self, folder, images, texts, *, device):
        self.images, self.texts = len(images), len(texts)

    def cosines(self):
        import numpy as np

        found = np.zeros((self.images, self.texts), dtype=np.float32)
        for text, image in enumerate([0, 1, 1, 3, 2, 2]):
            found[image, text] = 0.5
        return found

    def itm_logits(self, image_P, text_P):
        return self.cosines()[image_P, text_P]


class FakeCaptioner:
    def __init__(self, texts):
        self.texts = texts
        self.seeds = []

    def caption(self, images, *, seeds):
        self.seeds += seeds
        return [[Caption(text, -1.0)] for text in self.texts]


@pytest.fixture
def evaluate(monkeypatch, heldout, scenes, write_truth, wrong_text, write_candidates):
    truth = write_truth(
        [
            {"url": None, "key": f"k{i}", "text_is_true": True, "noise_kind": "human", "scene": s.to_json()}
            for i, s in enumerate(scenes)
        ]
        + [{"url": "u", "key": None, "text_is_true": True, "noise_kind": "correct", "scene": scenes[0].to_json()}]
    )
    captioner = FakeCaptioner([*(describe(scene, Random(0)) for scene in scenes[:3]), wrong_text(scenes[3])])
    monkeypatch.setattr(run, "PairScorer", FakeScorer)
    monkeypatch.setattr(run, "build_captioner", lambda config, trained, device: captioner)
    candidates = (write_candidates([("u", [("web", "w", 0.9)])]),)

    def ask(models=("pretrained", "captioner", "filter"), round_number=0, **changes):
        parts = {
            "retrieval": RetrievalConfig(model="pretrained", rerank_top_k=2),
            "captioning": CaptioningConfig(measures=["cider_d", "exact_scene"]),
            "filter_quality": FilterQualityConfig(),
        }
        config = EvaluateConfig(heldout=heldout, truth=truth, bootstrap=50, **{**parts, **changes})
        return run.evaluate(
            config,
            models=dict.fromkeys(models, "folder"),
            candidates=candidates if round_number else (),
            selection=None,
            round_number=round_number,
            seed=1,
            device="cpu",
            prompt="a picture of ",
            policy=SelectConfig(),
        )

    return ask


def test_recall_is_the_mean_of_both_directions_at_one(evaluate):
    found = evaluate()
    retrieval = found["retrieval"]
    assert retrieval["text_retrieval"]["r1"] == 0.5
    assert retrieval["image_retrieval"]["r1"] == 0.5
    assert retrieval["pairs"] == 4
    assert retrieval["text_retrieval"]["r10"] == 1
    assert retrieval["itc_only"].keys() == {"text_retrieval", "image_retrieval"}
    low, high = found["primary"]["interval"]
    assert found["primary"]["name"] == "mean_recall_at_1"
    assert low <= found["primary"]["value"] == 0.5 <= high
    assert retrieval["interval"]["mean_recall_at_1"] == [low, high]


def test_a_heldout_picture_that_is_not_there_is_named(evaluate, heldout):
    table = pq.read_table(heldout)
    images = [None if row == 2 else data for row, data in enumerate(table["image"].to_pylist())]
    pq.write_table(table.set_column(1, "image", pa.array(images, pa.binary())), heldout)
    with pytest.raises(InputError, match=r"heldout\.parquet, key k2: expected an encoded picture"):
        evaluate()


def test_every_recall_has_its_interval_and_the_ranks_their_mean(evaluate):
    retrieval = evaluate(retrieval=RetrievalConfig(model="pretrained", recall_at=[2], rerank_top_k=0))["retrieval"]
    assert retrieval["text_retrieval"] == {"r2": retrieval["mean_recall_at_2"] * 2 - retrieval["image_retrieval"]["r2"]}
    assert retrieval["interval"].keys() == {
        f"{name}{k}" for name in ("mean_recall_at_", "text_retrieval_r", "image_retrieval_r") for k in (1, 2)
    }
    low, high = retrieval["interval"]["mean_recall_at_2"]
    assert low <= retrieval["mean_recall_at_2"] <= high
    assert 1 < retrieval["mean_rank"]["text_retrieval"] <= 6
    assert 1 < retrieval["mean_rank"]["image_retrieval"] <= 4


def test_captions_are_judged_by_references_and_by_truth(evaluate, heldout):
    captioning = evaluate()["captioning"]
    assert captioning["true"] == 0.75
    assert captioning["exact_scene"] <= 0.75
    assert 0 < captioning["cider_d"] <= 10
    low, high = captioning["cider_d_interval"]
    assert low <= captioning["cider_d"] <= high
    last = captioning["examples"][-1]
    assert (last["key"], last["true"], last["references"]) == ("k3", False, read_heldout(heldout).captions[3])


def test_round_0_has_no_filter_quality_and_later_rounds_name_the_filter(evaluate):
    assert evaluate()["filter_quality"] is None
    found = evaluate(round_number=2)
    assert found["filter_quality"]["scored_by"] == "f"
    assert found["filter_quality"]["web"]["count"] == 1
    assert found["round"] == 2


def test_what_is_not_asked_for_is_null(evaluate):
    found = evaluate(retrieval=None, captioning=None)
    assert found["primary"] is found["retrieval"] is found["captioning"] is None


def test_a_model_that_the_round_lacks_is_named(evaluate):
    with pytest.raises(ConfigError, match="found captioner"):
        evaluate(models=("pretrained",))


def test_the_result_is_json_with_six_digits_and_the_same_each_time(evaluate):
    text = json.dumps(evaluate(round_number=1), allow_nan=False)
    assert text == json.dumps(evaluate(round_number=1))
    numbers = []
    json.loads(text, parse_float=lambda number: numbers.append(number) or 0.0)
    assert numbers
    assert all(len(number.partition(".")[2]) <= 6 for number in numbers if "e" not in number)
