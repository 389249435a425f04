"""What every captioner owes the caption stage; a new family joins by one line in `CONFIGS`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL.Image import Image

from capfilt.captioners import Caption, Captioner, build_captioner
from capfilt.config.decoding import Decoding, Greedy, Nucleus
from capfilt.config.round import CaptionConfig, CustomModel, MedModel, TrainedModel
from capfilt.errors import CheckpointError, ConfigError

Paint = Callable[[int], Image]
CONFIGS: dict[str, Callable[[Path], MedModel | TrainedModel]] = {
    "med": lambda folder: MedModel(kind="med", checkpoint=str(folder)),
    "trained": lambda folder: TrainedModel(kind="trained"),
}
SAMPLING = Nucleus(top_p=0.95, min_length=5, max_length=16)


@pytest.fixture(params=CONFIGS)
def make(request: pytest.FixtureRequest, med_folder: Path) -> Callable[..., Captioner]:
    def made(decode: Decoding = SAMPLING, prompt: str = "a ") -> Captioner:
        config = CaptionConfig(captioner=CONFIGS[request.param](med_folder), prompt=prompt, decode=decode, batch_size=4)
        return build_captioner(config, trained=str(med_folder), device="cpu")

    return made


def seeds(images: int, texts: int = 1, first: int = 0) -> list[list[int]]:
    return [[first + 1000 * i + k for k in range(texts)] for i in range(images)]


def close(some: list[list[Caption]], others: list[list[Caption]]) -> bool:
    """Equal texts, and log-probabilities that agree but for the last bits."""
    pairs = [pair for own in zip(some, others, strict=True) for pair in zip(*own, strict=True)]
    return all(one.text == other.text and one.log_prob == pytest.approx(other.log_prob, rel=1e-5) for one, other in pairs)


def test_a_captioner_keeps_the_protocol_and_says_where_it_is_from(make: Callable[..., Captioner]) -> None:
    assert isinstance(make(), Captioner)
    assert make().name == "round-0/captioner"


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


def test_a_model_is_its_weights_and_not_its_folder(med_folder: Path, tmp_path: Path, paint: Paint) -> None:
    from shutil import copytree

    elsewhere = copytree(med_folder, tmp_path / "round-0" / "models" / "captioner")
    found: list[list[list[Caption]]] = []
    for folder in (med_folder, elsewhere):
        config = CaptionConfig(captioner=MedModel(kind="med", checkpoint=str(folder)), decode=SAMPLING, batch_size=4)
        captioner = build_captioner(config, trained=None, device="cpu")
        assert captioner.name == "round-0/captioner"
        found.append(captioner.caption([paint(1)], seeds=seeds(1, 2)))
    assert found[0] == found[1]


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
