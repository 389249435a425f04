"""What every filter owes the filter stage and dedup; a new family joins by one line in `CONFIGS`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image

from capfilt.config.round import CustomModel, FilterConfig, MedModel, TrainedModel
from capfilt.errors import ConfigError
from capfilt.filters import Embedder, Filter, build_filter
from capfilt.filters.med import MedFilter, fixed_size

Paint = Callable[[int], Image]
CONFIGS: dict[str, Callable[[Path], MedModel | TrainedModel]] = {
    "med": lambda folder: MedModel(kind="med", checkpoint=str(folder)),
    "trained": lambda folder: TrainedModel(kind="trained"),
}
SHORT, LONG = "a red disc", "a small blue star a small blue star a small red disc"


@pytest.fixture(params=CONFIGS)
def scorer(request: pytest.FixtureRequest, med_folder: Path) -> Filter:
    config = FilterConfig(filter=CONFIGS[request.param](med_folder), batch_size=4)
    return build_filter(config, trained=str(med_folder), device="cpu")


def test_a_filter_keeps_the_protocols(scorer: Filter) -> None:
    assert isinstance(scorer, Filter)
    assert isinstance(scorer, Embedder)
    assert (scorer.name, scorer.dim) == ("round-0/captioner", 8)


def test_scores_have_the_shape_of_the_texts(scorer: Filter, paint: Paint) -> None:
    texts = [[SHORT], [], [SHORT, LONG, "a star"], [LONG], [], [SHORT, SHORT]]
    found = scorer.score([paint(i) for i in range(6)], texts)
    for scores in (found.itm, found.itc):
        assert scores is not None
        assert [len(own) for own in scores] == [len(own) for own in texts]
    assert found.itm is not None
    assert all(0 < p < 1 for own in found.itm for p in own)
    assert found.itc is not None
    assert all(-1 <= c <= 1 for own in found.itc for c in own)
    assert found.embedding.shape == (6, scorer.dim)
    assert found.embedding.dtype == np.float32


def test_no_pictures_and_no_texts_are_no_problem(scorer: Filter, paint: Paint) -> None:
    nothing = scorer.score([], [])
    assert (nothing.itm, nothing.itc, nothing.embedding.shape) == ([], [], (0, scorer.dim))
    silent = scorer.score([paint(0), paint(1)], [[], []])
    assert (silent.itm, silent.itc, silent.embedding.shape) == ([[], []], [[], []], (2, scorer.dim))


def test_a_score_belongs_to_its_pair(scorer: Filter, paint: Paint) -> None:
    images, texts = [paint(i) for i in range(5)], ["a red disc", "a blue star", LONG, "a large disc", "a small star"]
    straight = scorer.score(images, [[text] for text in texts])
    order = [3, 1, 4, 0, 2]
    turned = scorer.score([images[i] for i in order], [[texts[i]] for i in order])
    assert straight.itm is not None
    assert straight.itc is not None
    assert len({own[0] for own in straight.itm}) == 5, "equal scores would show no order"
    assert turned.itc is not None
    # At another place in the batch threads may divide the work otherwise: the last bits are not promised.
    np.testing.assert_allclose(turned.itm, [straight.itm[i] for i in order], rtol=1e-5)
    np.testing.assert_allclose(turned.itc, [straight.itc[i] for i in order], atol=1e-6)
    np.testing.assert_allclose(turned.embedding, straight.embedding[order], atol=1e-6)


def test_neighbours_do_not_change_a_score(scorer: Filter, paint: Paint) -> None:
    alone = scorer.score([paint(0)], [[SHORT]])
    padded = scorer.score([paint(0), paint(1)], [[SHORT], [SHORT]])
    crowd = scorer.score([paint(i) for i in range(7)], [[SHORT, "a star", LONG], [], [LONG], [SHORT] * 5, [], ["a disc"], [LONG]])
    later = scorer.score([paint(8), paint(0)], [["a disc", LONG], ["a star", SHORT]])
    for name in ("itm", "itc"):
        first = getattr(alone, name)[0][0]
        # Every bit, as the shapes and the place in the batch are the same.
        assert getattr(padded, name)[0][0] == getattr(crowd, name)[0][0] == first
        assert getattr(later, name)[1][1] == pytest.approx(first, rel=1e-5, abs=1e-6)
    np.testing.assert_array_equal(padded.embedding[0], alone.embedding[0])
    np.testing.assert_array_equal(crowd.embedding[0], alone.embedding[0])


def test_all_texts_of_a_picture_share_its_encoding(med_folder: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = MedFilter.load(str(med_folder), batch_size=4, dtype="float32", device="cpu")
    model = scorer._network.model
    encode, batches = model.encode_image, []
    monkeypatch.setattr(model, "encode_image", lambda pixels: batches.append(len(pixels)) or encode(pixels))
    scorer.score([paint(i) for i in range(5)], [[SHORT, LONG, "a star"]] * 5)
    assert batches == [4, 4]


def test_keys_and_values_of_a_picture_are_made_once_for_texts_of_any_length(
    med_folder: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = MedFilter.load(str(med_folder), batch_size=4, dtype="float32", device="cpu")
    tower = scorer._network.model.text_encoder
    image_kv, calls = tower.image_kv, []
    monkeypatch.setattr(tower, "image_kv", lambda embeds: calls.append(len(embeds)) or image_kv(embeds))
    scorer.score([paint(i) for i in range(4)], [[SHORT, LONG], [LONG], [], [SHORT] * 3])
    assert calls == [4]


@pytest.mark.parametrize(
    ("rows", "size", "expected"), [(64, 64, 64), (33, 64, 64), (32, 64, 32), (3, 64, 8), (3, 4, 4), (1, 12, 12)]
)
def test_a_buckets_last_batch_has_a_fixed_size_that_wastes_little(rows: int, size: int, expected: int) -> None:
    assert fixed_size(rows, size) == expected


def test_features_have_unit_norm_and_their_product_is_the_itc(scorer: Filter, paint: Paint) -> None:
    assert isinstance(scorer, Embedder)
    images, texts = [paint(i) for i in range(6)], [SHORT, LONG, "a star", "a blue disc", SHORT, "a"]
    image_NE, text_NE = scorer.embed_images(images), scorer.embed_texts(texts)
    for features in (image_NE, text_NE):
        assert features.shape == (6, scorer.dim)
        assert features.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(text_NE[0], text_NE[4], atol=1e-6)
    assert np.abs(text_NE[0] - text_NE[1]).max() > 1e-3
    found = scorer.score(images, [[text] for text in texts])
    np.testing.assert_allclose([own[0] for own in found.itc or []], (image_NE * text_NE).sum(1), atol=1e-5)
    np.testing.assert_allclose(found.embedding, image_NE, atol=1e-6)


def test_nothing_to_embed_is_an_empty_table_of_the_right_width(scorer: Filter) -> None:
    assert isinstance(scorer, Embedder)
    assert scorer.embed_images([]).shape == scorer.embed_texts([]).shape == (0, scorer.dim)


def test_a_text_longer_than_the_network_is_cut_and_scored(scorer: Filter, paint: Paint) -> None:
    found = scorer.score([paint(0)], [[LONG * 5, LONG * 6]])
    assert found.itm is not None
    assert found.itm[0][0] == pytest.approx(found.itm[0][1], rel=1e-5)


def test_a_custom_filter_is_built_from_its_target() -> None:
    config = FilterConfig(filter=CustomModel(kind="custom", target="types:SimpleNamespace", options={"name": "mine", "dim": 3}))
    built = build_filter(config, trained=None, device="cpu")
    assert (built.name, built.dim) == ("mine", 3)


def test_a_trained_filter_needs_a_training() -> None:
    config = FilterConfig(filter=TrainedModel(kind="trained"))
    with pytest.raises(ConfigError, match="expected a model trained by this run, found none"):
        build_filter(config, trained=None, device="cpu")
