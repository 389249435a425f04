from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image

from capfilt import Model, load_model
from capfilt.config.architectures import load_architecture
from capfilt.config.decoding import Greedy, Nucleus
from capfilt.errors import CheckpointError, ConfigError

Paint = Callable[[int], Image]
TEXTS = ["a red disc", "a small blue star", "a large red star"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "picture", "of"]


@pytest.fixture(scope="module")
def model(med_folder: Path) -> Model:
    return load_model(med_folder, batch_size=4)


def test_captions_are_one_text_per_picture_and_repeat_themselves(model: Model, paint: Paint) -> None:
    images = [paint(i) for i in range(5)]
    texts = model.caption(images)
    assert [type(text) for text in texts] == [str] * 5
    assert model.caption(images) == texts
    assert not any(text.startswith("a picture of") for text in texts)
    assert model.caption([]) == []


def test_how_and_with_which_seed_a_text_is_made_can_be_chosen(model: Model, paint: Paint) -> None:
    images = [paint(i) for i in range(4)]
    sampling = Nucleus(top_p=1.0, max_length=16)
    drawn = [model.caption(images, prompt="a ", decode=sampling, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = model.caption(images, decode=Greedy(min_length=6, max_length=6), prompt="a ")
    assert all(text for text in greedy)


def test_match_pairs_by_position(model: Model, paint: Paint) -> None:
    images = [paint(i) for i in range(3)]
    found = model.match(images, TEXTS)
    assert (found.shape, found.dtype) == ((3,), np.float32)
    assert ((found > 0) & (found < 1)).all()
    np.testing.assert_allclose(model.match(images[::-1], TEXTS[::-1]), found[::-1], rtol=1e-5)
    assert model.match([], []).shape == (0,)


def test_what_is_no_list_of_pictures_is_refused_and_other_modes_become_rgb(model: Model, paint: Paint) -> None:
    for wrong in ("picture.jpg", ["picture.jpg"], paint(3)):
        with pytest.raises(TypeError, match=r"expected a list of PIL pictures, found .* Open files with PIL.Image.open"):
            model.embed_images(wrong)  # type: ignore[arg-type]
    grey = paint(3).convert("L")
    assert np.array_equal(model.embed_images([grey]), model.embed_images([grey.convert("RGB")]))


def test_match_refuses_lists_of_different_length(model: Model, paint: Paint) -> None:
    with pytest.raises(ValueError, match="expected as many texts as pictures, found 3 and 1"):
        model.match([paint(0)], TEXTS)


def test_features_are_of_unit_norm(model: Model, paint: Paint) -> None:
    images, texts = model.embed_images([paint(i) for i in range(3)]), model.embed_texts(TEXTS)
    assert images.shape == texts.shape == (3, model.architecture.embed_dim)
    np.testing.assert_allclose(np.linalg.norm([*images, *texts], axis=1), 1, rtol=1e-5)


def test_a_fresh_model_comes_from_an_architecture_and_its_seed(med_folder: Path, tmp_path: Path, paint: Paint) -> None:
    architecture = load_architecture(med_folder / "architecture.yaml")
    fitted = architecture.model_copy(
        update={"text": architecture.text.model_copy(update={"vocab_size": len(VOCABULARY) + 2, "cls_id": 2, "sep_id": 3})}
    )
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    first, again, other = (load_model(fitted, vocabulary=tmp_path / "vocab.txt", seed=seed) for seed in (1, 1, 2))
    images = [paint(0)]
    np.testing.assert_array_equal(first.embed_images(images), again.embed_images(images))
    assert np.abs(first.embed_images(images) - other.embed_images(images)).max() > 1e-3
    assert len(first.caption(images)) == 1


@pytest.mark.parametrize("family", ["coca", "blip2"])
def test_a_fresh_model_may_be_of_any_family(family: str, tiny_folder: Callable[[str], Path], paint: Paint) -> None:
    folder = tiny_folder(family)
    fresh = load_model(load_architecture(folder / "architecture.yaml"), vocabulary=folder, seed=1)
    assert fresh.architecture.kind == family
    assert len(fresh.caption([paint(0)])) == len(fresh.match([paint(0)], ["a red disc"])) == 1


def test_an_architecture_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected `vocabulary`, a WordPiece file, found none"):
        load_model("med_tiny")


def test_a_name_that_is_neither_folder_nor_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a model folder or the name of an architecture, found neither"):
        load_model("no_such_model")
    with pytest.raises(CheckpointError, match=r"found no model\.safetensors"):
        load_model(tmp_path)
