"""What every captioner owes the caption stage; a new family joins by one line in `tests/tiny.py`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL.Image import Image

from capfilt.captioners import Caption, Captioner, build_captioner
from capfilt.config.decoding import Decoding, Greedy, Nucleus
from capfilt.config.round import CaptionConfig, CustomModel, MedModel, TrainedModel
from capfilt.errors import CheckpointError, ConfigError
from tests.tiny import CAPTIONERS

Paint = Callable[[int], Image]
SAMPLING = Nucleus(top_p=0.95, min_length=5, max_length=16)


@pytest.fixture(params=[*CAPTIONERS, "trained"], scope="module")
def make(request: pytest.FixtureRequest, tiny_folder: Callable[[str], Path]) -> Callable[..., Captioner]:
    """By its kind, and as the one that the run trained, whose family its folder says."""
    family = "coca" if request.param == "trained" else request.param

    def made(decode: Decoding = SAMPLING, prompt: str = "a ") -> Captioner:
        named = (
            {"kind": request.param} if request.param == "trained" else {"kind": family, "checkpoint": str(tiny_folder(family))}
        )
        config = CaptionConfig.model_validate({"captioner": named, "prompt": prompt, "decode": decode, "batch_size": 4})
        return build_captioner(config, trained=str(tiny_folder(family)), device="cpu")

    return made


def seeds(images: int, texts: int = 1, first: int = 0) -> list[list[int]]:
    return [[first + 1000 * i + k for k in range(texts)] for i in range(images)]


def close(some: list[list[Caption]], others: list[list[Caption]]) -> bool:
    """Equal texts, and log-probabilities that agree but for the last bits."""
    pairs = [pair for own in zip(some, others, strict=True) for pair in zip(*own, strict=True)]
    return all(one.text == other.text and one.log_prob == pytest.approx(other.log_prob, rel=1e-5) for one, other in pairs)


def test_a_captioner_keeps_the_protocol_and_says_where_it_is_from(make: Callable[..., Captioner]) -> None:
    assert isinstance(make(), Captioner)
    assert make().name in [f"round-0/{family}" for family in CAPTIONERS]


@pytest.mark.parametrize("texts", [1, 3])
def test_there_is_one_text_per_seed_and_one_list_per_picture(make: Callable[..., Captioner], paint: Paint, texts: int) -> None:
    found = make().caption([paint(i) for i in range(6)], seeds=seeds(6, texts))
    assert [len(own) for own in found] == [texts] * 6
    assert all(caption.log_prob < 0 for own in found for caption in own)


def test_the_prompt_is_not_in_the_text(make: Callable[..., Captioner], paint: Paint) -> None:
    captioner = make(Greedy(min_length=8, max_length=12), "a small red disc ")
    texts = [own[0].text for own in captioner.caption([paint(i) for i in range(5)], seeds=seeds(5))]
    assert all(texts)
    assert not any(text.startswith("a small red disc") for text in texts)
    assert not any("[" in text for text in texts), "special tokens are no words"


def test_no_pictures_give_no_texts(make: Callable[..., Captioner]) -> None:
    assert make().caption([], seeds=[]) == []


def test_texts_come_in_the_order_of_the_pictures(make: Callable[..., Captioner], paint: Paint) -> None:
    order = [4, 0, 3, 1, 2]
    straight = make().caption([paint(i) for i in range(5)], seeds=seeds(5))
    turned = make().caption([paint(i) for i in order], seeds=[seeds(5)[i] for i in order])
    assert len({own[0].text for own in straight}) > 1, "equal texts would show no order"
    assert close(turned, [straight[i] for i in order])


def test_the_seeds_decide(make: Callable[..., Captioner], paint: Paint) -> None:
    images = [paint(0)] * 8
    same = make().caption(images, seeds=[[7]] * 8)
    assert close(same, [same[0]] * 8)
    others = make().caption(images, seeds=seeds(8))
    assert len({own[0].text for own in others}) > 1
    assert make().caption(images, seeds=seeds(8)) == others


def test_a_texts_neighbours_with_the_same_picture_do_not_change_it(make: Callable[..., Captioner], paint: Paint) -> None:
    together = make().caption([paint(2)], seeds=[[5, 6, 7]])[0]
    turned = make().caption([paint(2)], seeds=[[7, 5, 6]])[0]
    assert close([turned], [[together[2], together[0], together[1]]])


@pytest.mark.parametrize("decode", [SAMPLING, Greedy(min_length=5, max_length=16)], ids=lambda decode: decode.kind)
def test_neighbours_and_padding_change_nothing(make: Callable[..., Captioner], paint: Paint, decode: Decoding) -> None:
    images, strangers = [paint(i) for i in range(7)], [paint(20 + i) for i in range(7)]
    whole = make(decode).caption(images, seeds=seeds(7))
    # Texts and every bit of log_prob, as the shapes and the place in the batch are the same.
    assert [make(decode).caption(images[:count], seeds=seeds(count)) for count in range(8)] == [
        whole[:count] for count in range(8)
    ]
    mixed = make(decode).caption(
        [*strangers[:2], images[2], *strangers[3:]], seeds=[*seeds(2, first=9), [2000], *seeds(4, first=99)]
    )
    assert mixed[2] == whole[2]
    # At another place threads may divide the work otherwise: the same texts, the last bits aside.
    alone = [make(decode).caption([image], seeds=[own])[0] for image, own in zip(images, seeds(7), strict=True)]
    assert close(alone, whole)


def test_a_custom_captioner_is_built_from_its_target() -> None:
    config = CaptionConfig(captioner=CustomModel(kind="custom", target="types:SimpleNamespace", options={"name": "mine"}))
    assert build_captioner(config, trained=None, device="cpu").name == "mine"


def test_a_trained_captioner_needs_a_training() -> None:
    config = CaptionConfig(captioner=TrainedModel(kind="trained"))
    with pytest.raises(ConfigError, match="expected a model trained by this run, found none"):
        build_captioner(config, trained=None, device="cpu")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    config = CaptionConfig(captioner=MedModel(kind="med", checkpoint=str(tmp_path)))
    with pytest.raises(CheckpointError, match="expected a capfilt model"):
        build_captioner(config, trained=None, device="cpu")


@pytest.mark.parametrize("family", CAPTIONERS)
def test_a_batch_of_one_writes_the_same(family: str, tiny_folder: Callable[[str], Path], paint: Paint) -> None:
    found = []
    for size in (1, 4):
        named = {"kind": family, "checkpoint": str(tiny_folder(family))}
        config = CaptionConfig.model_validate({"captioner": named, "prompt": "a ", "decode": SAMPLING, "batch_size": size})
        captioner = build_captioner(config, trained=None, device="cpu")
        found.append(captioner.caption([paint(i) for i in range(5)], seeds=seeds(5, 2)))
    assert [[one.text for one in own] for own in found[0]] == [[one.text for one in own] for own in found[1]]
    assert [one.log_prob for own in found[0] for one in own] == pytest.approx(
        [one.log_prob for own in found[1] for one in own], rel=1e-4
    )


@pytest.mark.parametrize("family", CAPTIONERS)
@pytest.mark.parametrize("decode", ["greedy", "beam", "nucleus"])
def test_every_way_of_writing_serves_every_family(
    family: str, decode: str, tiny_folder: Callable[[str], Path], paint: Paint
) -> None:
    named = {"kind": family, "checkpoint": str(tiny_folder(family))}
    asked = {"captioner": named, "prompt": "a ", "decode": {"kind": decode, "min_length": 4, "max_length": 9}, "batch_size": 2}
    captioner = build_captioner(CaptionConfig.model_validate(asked), trained=None, device="cpu")
    found = captioner.caption([paint(i) for i in range(3)], seeds=seeds(3))
    assert all(own[0].log_prob < 0 for own in found)
    assert found == captioner.caption([paint(i) for i in range(3)], seeds=seeds(3))


def test_a_family_that_only_scores_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    config = CaptionConfig(captioner=TrainedModel(kind="trained"))
    with pytest.raises(CheckpointError, match="expected a text decoder to write captions, found a filter only"):
        build_captioner(config, trained=str(tiny_folder("soho")), device="cpu")
