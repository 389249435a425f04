"""What every filter owes the filter stage and dedup; a new family joins by one line in `tests/tiny.py`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image

from capfilt.config.round import CustomModel, FilterConfig, TrainedModel
from capfilt.errors import CheckpointError, ConfigError
from capfilt.filters import Embedder, Filter, build_filter
from tests.tiny import SCORES

Paint = Callable[[int], Image]
Folder = Callable[[str], Path]
DIMS = {"med": 8, "coca": 8, "blip2": 8, "soho": 16}
EMBEDS_TEXTS = ("med", "coca", "blip2")
SHORT, LONG = "a red disc", "a small blue star a small blue star a small red disc"


@pytest.fixture(params=SCORES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scorer(family: str, tiny_folder: Folder) -> Filter:
    config = FilterConfig.model_validate({"filter": {"kind": family, "checkpoint": str(tiny_folder(family))}, "batch_size": 4})
    return build_filter(config, trained=None, device="cpu")


def test_the_filter_that_a_run_trained_is_of_its_folders_family(family: str, tiny_folder: Folder, paint: Paint) -> None:
    config = FilterConfig(filter=TrainedModel(kind="trained"), batch_size=4)
    trained = build_filter(config, trained=str(tiny_folder(family)), device="cpu")
    named = FilterConfig.model_validate({"filter": {"kind": family, "checkpoint": str(tiny_folder(family))}, "batch_size": 4})
    expected = build_filter(named, trained=None, device="cpu").score([paint(0)], [[SHORT]])
    found = trained.score([paint(0)], [[SHORT]])
    assert (found.itm, found.itc) == (expected.itm, expected.itc)


def test_a_filter_keeps_the_protocols_and_says_which_scores_it_gives(family: str, scorer: Filter, paint: Paint) -> None:
    assert isinstance(scorer, Filter)
    assert isinstance(scorer, Embedder)
    assert (scorer.name, scorer.dim) == (f"round-0/{family}", DIMS[family])
    found = scorer.score([paint(0)], [[SHORT]])
    assert tuple(name for name in ("itm", "itc") if getattr(found, name) is not None) == SCORES[family]


def test_scores_have_the_shape_of_the_texts(family: str, scorer: Filter, paint: Paint) -> None:
    texts = [[SHORT], [], [SHORT, LONG, "a star"], [LONG], [], [SHORT, SHORT]]
    found = scorer.score([paint(i) for i in range(6)], texts)
    for name in SCORES[family]:
        scores = getattr(found, name)
        assert [len(own) for own in scores] == [len(own) for own in texts]
        values = np.array([value for own in scores for value in own])
        assert np.isfinite(values).all()
        assert ((values > 0) if name == "itm" else (values >= -1)).all()
        assert ((values < 1) if name == "itm" else (values <= 1)).all()
    assert found.embedding.shape == (6, scorer.dim)
    assert found.embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, rtol=1e-5)


def test_no_pictures_and_no_texts_are_no_problem(family: str, scorer: Filter, paint: Paint) -> None:
    nothing = scorer.score([], [])
    silent = scorer.score([paint(0), paint(1)], [[], []])
    for name in ("itm", "itc"):
        given = name in SCORES[family]
        assert (getattr(nothing, name), getattr(silent, name)) == (([], [[], []]) if given else (None, None))
    assert nothing.embedding.shape == (0, scorer.dim)
    assert silent.embedding.shape == (2, scorer.dim)
    spoken = scorer.score([paint(0), paint(1)], [[SHORT], [SHORT]])
    np.testing.assert_array_equal(silent.embedding, spoken.embedding)


def test_a_score_belongs_to_its_pair(family: str, scorer: Filter, paint: Paint) -> None:
    images, texts = [paint(i) for i in range(5)], ["a red disc", "a blue star", LONG, "a large disc", "a small star"]
    straight = scorer.score(images, [[text] for text in texts])
    order = [3, 1, 4, 0, 2]
    turned = scorer.score([images[i] for i in order], [[texts[i]] for i in order])
    for name in SCORES[family]:
        scores = getattr(straight, name)
        assert len({own[0] for own in scores}) == 5, "equal scores would show no order"
        # At another place in the batch threads may divide the work otherwise: the last bits are not promised.
        np.testing.assert_allclose(getattr(turned, name), [scores[i] for i in order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(turned.embedding, straight.embedding[order], atol=1e-6)


def test_picture_and_text_both_matter(family: str, scorer: Filter, paint: Paint) -> None:
    found = scorer.score([paint(0), paint(1)], [[SHORT, LONG], [SHORT, LONG]])
    for name in SCORES[family]:
        (a, b), (c, _) = getattr(found, name)
        assert abs(a - b) > 1e-6
        assert abs(a - c) > 1e-6
    assert np.abs(found.embedding[0] - found.embedding[1]).max() > 1e-4


def test_neighbours_do_not_change_a_score(family: str, scorer: Filter, paint: Paint) -> None:
    alone = scorer.score([paint(0)], [[SHORT]])
    padded = scorer.score([paint(0), paint(1)], [[SHORT], [SHORT]])
    crowd = scorer.score([paint(i) for i in range(7)], [[SHORT, "a star", LONG], [], [LONG], [SHORT] * 5, [], ["a disc"], [LONG]])
    later = scorer.score([paint(8), paint(0)], [["a disc", LONG], ["a star", SHORT]])
    for name in SCORES[family]:
        first = getattr(alone, name)[0][0]
        # Every bit, as the shapes and the place in the batch are the same.
        assert getattr(padded, name)[0][0] == getattr(crowd, name)[0][0] == first
        assert getattr(later, name)[1][1] == pytest.approx(first, rel=1e-5, abs=1e-6)
    np.testing.assert_array_equal(padded.embedding[0], alone.embedding[0])
    np.testing.assert_array_equal(crowd.embedding[0], alone.embedding[0])


@pytest.mark.parametrize("size", [1, 3])
def test_the_batch_size_moves_the_last_bits_alone(
    family: str, size: int, scorer: Filter, tiny_folder: Folder, paint: Paint
) -> None:
    asked = {"filter": {"kind": family, "checkpoint": str(tiny_folder(family))}, "batch_size": size}
    other = build_filter(FilterConfig.model_validate(asked), trained=None, device="cpu")
    images, texts = [paint(i) for i in range(4)], [[SHORT, LONG], ["a star"], [], [LONG]]
    found, expected = other.score(images, texts), scorer.score(images, texts)
    for name in SCORES[family]:
        for some, others in zip(getattr(found, name), getattr(expected, name), strict=True):
            np.testing.assert_allclose(some, others, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)


def test_pictures_features_have_unit_norm_and_are_the_scores_embedding(scorer: Filter, paint: Paint) -> None:
    assert isinstance(scorer, Embedder)
    images = [paint(i) for i in range(6)]
    image_NE = scorer.embed_images(images)
    assert image_NE.shape == (6, scorer.dim)
    assert image_NE.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(image_NE, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(scorer.score(images, [[SHORT]] * 6).embedding, image_NE, atol=1e-6)
    assert scorer.embed_images([]).shape == (0, scorer.dim)


def test_texts_features_have_unit_norm_and_their_product_is_the_itc(family: str, scorer: Filter, paint: Paint) -> None:
    assert isinstance(scorer, Embedder)
    images, texts = [paint(i) for i in range(6)], [SHORT, LONG, "a star", "a blue disc", SHORT, "a"]
    if family not in EMBEDS_TEXTS:
        with pytest.raises(CheckpointError, match="expected a family with text features"):
            scorer.embed_texts(texts)
        return
    text_NE = scorer.embed_texts(texts)
    assert text_NE.shape == (6, scorer.dim)
    assert text_NE.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(text_NE, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(text_NE[0], text_NE[4], atol=1e-6)
    assert np.abs(text_NE[0] - text_NE[1]).max() > 1e-3
    assert scorer.embed_texts([]).shape == (0, scorer.dim)
    cosines = (scorer.embed_images(images) * text_NE).sum(1)
    found = np.array([own[0] for own in scorer.score(images, [[text] for text in texts]).itc or []])
    if family == "blip2":  # whose ITC is that of the best query, and whose embedding is the queries' mean
        assert np.abs(found - cosines).max() > 1e-4
    else:
        np.testing.assert_allclose(found, cosines, atol=1e-5)


def test_a_text_longer_than_the_network_is_cut_and_scored(family: str, scorer: Filter, paint: Paint) -> None:
    found = scorer.score([paint(0)], [[LONG * 5, LONG * 6]])
    for name in SCORES[family]:
        assert getattr(found, name)[0][0] == pytest.approx(getattr(found, name)[0][1], rel=1e-5)


def test_a_custom_filter_is_built_from_its_target() -> None:
    config = FilterConfig(filter=CustomModel(kind="custom", target="types:SimpleNamespace", options={"name": "mine", "dim": 3}))
    built = build_filter(config, trained=None, device="cpu")
    assert (built.name, built.dim) == ("mine", 3)


def test_a_trained_filter_needs_a_training() -> None:
    config = FilterConfig(filter=TrainedModel(kind="trained"))
    with pytest.raises(ConfigError, match="expected a model trained by this run, found none"):
        build_filter(config, trained=None, device="cpu")


def test_a_folder_of_another_family_is_refused(tiny_folder: Folder) -> None:
    asked = {"filter": {"kind": "soho", "checkpoint": str(tiny_folder("coca"))}}
    with pytest.raises(CheckpointError, match="expected a model of kind soho, found a coca"):
        build_filter(FilterConfig.model_validate(asked), trained=None, device="cpu")


def test_a_family_without_the_role_is_refused(tiny_folder: Folder) -> None:
    with pytest.raises(
        CheckpointError, match="expected a text encoder with ITC and ITM heads to match texts, found a captioner only"
    ):
        build_filter(
            FilterConfig.model_validate({"filter": {"kind": "trained"}}), trained=str(tiny_folder("clipcap")), device="cpu"
        )
