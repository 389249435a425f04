import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import TextConfig, VisionConfig
from capfilt.evaluation.scoring import PairScorer, _equal_groups
from capfilt.modeling.build import build
from capfilt.modeling.preprocess import preprocess
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import save_model

TEXTS = ["a red square", "one blue ring on grass", "a star", "ring", "a small striped star on sand"]


@pytest.fixture
def scorer(tmp_path):
    tokenizer = Tokenizer.train(TEXTS, 100)
    text = TextConfig(
        vocabulary="trained",
        vocab_size=len(tokenizer),
        width=16,
        layers=2,
        heads=2,
        intermediate=32,
        max_positions=24,
        cls_id=2,
        sep_id=3,
    )
    image = VisionConfig(size=16, patch=4, width=16, layers=1, heads=2)
    architecture = MedArchitecture(kind="med", image=image, text=text, embed_dim=8, max_text_length=12, init_std=0.3)
    model = build(architecture, seed=0).eval()
    save_model(tmp_path / "m", model, architecture, tokenizer)
    images = [Image.new("RGB", (20, 16), (i * 50, 255 - i * 60, i * 30)) for i in range(4)]
    return PairScorer(tmp_path / "m", images, TEXTS, device="cpu"), model, tokenizer, preprocess(images, architecture)


def test_logits_and_cosines_are_the_networks_own(scorer):
    asked, model, tokenizer, pixels = scorer
    image_P, text_P = np.array([0, 0, 0, 1, 3, 3, 2]), np.array([0, 1, 4, 2, 3, 0, 0])
    logits, cosines = asked.itm_logits(image_P, text_P), asked.cosines()
    assert cosines.shape == (4, 5)
    with torch.inference_mode():
        for i, j, logit in zip(image_P, text_P, logits, strict=True):
            ids, mask = map(torch.from_numpy, tokenizer.encode_batch([TEXTS[j]], 12))
            embeds = model.encode_image(pixels[i : i + 1])
            assert logit == pytest.approx(float(model.itm_logits(ids, mask, embeds)[0, 1]), abs=1e-5)
            cosine = model.image_features(embeds) @ model.text_features(ids, mask).T
            assert cosines[i, j] == pytest.approx(float(cosine), abs=1e-5)


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 10))
def test_every_pair_is_in_a_group_beside_its_image_alone(images, largest):
    image_P = np.array(images, dtype=np.int64)
    seen = []
    for images_B, pairs_Bn in _equal_groups(image_P, largest):
        assert pairs_Bn.size <= max(largest, pairs_Bn.shape[1])
        assert (image_P[pairs_Bn] == images_B[:, None]).all()
        seen += pairs_Bn.ravel().tolist()
    assert set(seen) == set(range(len(images)))
