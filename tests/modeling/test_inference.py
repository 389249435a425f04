from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL.Image import Image

from capfilt.errors import ConfigError
from capfilt.modeling.inference import Inference

Paint = Callable[[int], Image]


def load(folder: Path, batch_size: int = 4, **options: str) -> Inference:
    chosen = {"dtype": "float32", "device": "cpu", **options}
    return Inference.load(str(folder), batch_size=batch_size, dtype=chosen["dtype"], device=chosen["device"])  # type: ignore[arg-type]


def encode(network: Inference, images: list[Image]) -> list[tuple[range, torch.Tensor]]:
    return list(network.each_batch(images, lambda here, embeds: (here, embeds)))


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_batches_cover_every_picture_and_are_always_full(med_folder: Path, paint: Paint, count: int) -> None:
    batches = encode(load(med_folder), [paint(i) for i in range(count)])
    assert [i for here, _ in batches for i in here] == list(range(count))
    assert all(embeds.shape == (4, 17, 16) for _, embeds in batches)


def test_the_last_batch_repeats_its_last_picture(med_folder: Path, paint: Paint) -> None:
    ((here, embeds_BND),) = encode(load(med_folder), [paint(0), paint(1)])
    assert here == range(2)
    torch.testing.assert_close(embeds_BND[2:], embeds_BND[1:2].expand(2, -1, -1))
    assert (embeds_BND[0] - embeds_BND[1]).abs().max() > 1e-2


def test_neighbours_change_nothing(med_folder: Path, paint: Paint) -> None:
    network = load(med_folder)
    ((_, alone),) = encode(network, [paint(0)])
    (_, together), _ = encode(network, [paint(i) for i in range(5)])
    assert torch.equal(together[0], alone[0])


def test_nothing_is_learnt(med_folder: Path, paint: Paint) -> None:
    network = load(med_folder)
    assert not network.model.training
    assert not any(parameter.requires_grad for parameter in network.model.parameters())
    ((_, embeds),) = encode(network, [paint(0)])
    assert not embeds.requires_grad


def test_bfloat16_is_close_to_float32(med_folder: Path, paint: Paint) -> None:
    images = [paint(i) for i in range(4)]
    ((_, exact),) = encode(load(med_folder), images)
    ((_, rough),) = encode(load(med_folder, dtype="bfloat16"), images)
    assert rough.dtype == torch.bfloat16
    assert 0 < (rough.float() - exact).abs().max() < 0.3


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told_in_the_words_of_the_config(med_folder: Path) -> None:
    told = r"device cuda: expected a GPU, found none.*resources\.caption\.gpus: 0 and resources\.filter\.gpus: 0"
    with pytest.raises(ConfigError, match=told):
        load(med_folder, device="cuda")
