from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from capfilt.config.architectures import Architecture
from capfilt.config.load import load_section
from capfilt.modeling.batch import Batch
from capfilt.modeling.build import build
from capfilt.modeling.heads import Examples, HeadTraining, JointClassifier, PooledHeads
from capfilt.modeling.med import MED
from tests.tiny import ARCHITECTURES


@pytest.mark.parametrize("frames", [0, 4])
def test_only_with_frame_positions_a_clip_differs_from_its_reverse(frames: int) -> None:
    torch.manual_seed(0)
    head = PooledHeads(8, [5], width=None, heads=2, frames=frames)
    tokens_BFND = torch.randn(2, 4, 3, 8)
    forwards, backwards = (head(x.flatten(1, 2))[0] for x in (tokens_BFND, tokens_BFND.flip(1)))
    assert torch.allclose(forwards, backwards, atol=1e-5) == (frames == 0)


def test_each_label_has_a_pooler_of_its_own() -> None:
    torch.manual_seed(0)
    head = PooledHeads(8, [5, 3], width=16, heads=2)
    first, second = head(torch.randn(2, 7, 8))
    assert (first.shape, second.shape) == ((2, 5), (2, 3))
    batch = Examples(torch.randn(2, 7, 8), torch.tensor([[0, 1], [4, 2]]))
    each = [torch.nn.functional.cross_entropy(x, batch.labels_BK[:, k]) for k, x in enumerate(head(batch.inputs))]
    torch.testing.assert_close(HeadTraining(head).losses(batch)["ce"], sum(each))


def test_two_pictures_are_read_apart_and_put_side_by_side(model: MED, make_batch: Callable[..., Batch]) -> None:
    torch.manual_seed(0)
    head = JointClassifier(model.eval(), 2, images=2).eval()
    batch, other = make_batch(pairs=3), make_batch(pairs=3, seed=1)
    pixels_BICHW = torch.stack([batch.pixels_BCHW, other.pixels_BCHW], dim=1)
    both = [head.joint(model.encode_image(pixels), batch.ids_BT, batch.mask_BT) for pixels in pixels_BICHW.unbind(1)]
    expected = head.classifier(torch.cat(both, dim=1))
    torch.testing.assert_close(head(pixels_BICHW, batch.ids_BT, batch.mask_BT), expected, atol=1e-5, rtol=0)


def test_a_joint_state_reads_both_picture_and_text(model: MED, make_batch: Callable[..., Batch]) -> None:
    head = JointClassifier(model.eval(), 3)
    batch, other = make_batch(pairs=2), make_batch(pairs=2, seed=1)
    own = head.joint(model.encode_image(batch.pixels_BCHW), batch.ids_BT, batch.mask_BT)
    assert own.shape == (2, 16)
    for pixels, text in ((other.pixels_BCHW, batch), (batch.pixels_BCHW, other)):
        assert (own - head.joint(model.encode_image(pixels), text.ids_BT, text.mask_BT)).abs().max() > 1e-5


def test_two_pictures_are_read_in_one_pass_where_that_is_asked(model: MED, make_batch: Callable[..., Batch]) -> None:
    head = JointClassifier(model.eval(), 2, images=2, merged=True).eval()
    batch, other = make_batch(pairs=3), make_batch(pairs=3, seed=1)
    assert head.twins is not None
    first, second = model.encode_image(batch.pixels_BCHW), model.encode_image(other.pixels_BCHW)
    expected = head.classifier(head.twins(batch.ids_BT, batch.mask_BT, first, second))
    pixels_BICHW = torch.stack([batch.pixels_BCHW, other.pixels_BCHW], dim=1)
    torch.testing.assert_close(head(pixels_BICHW, batch.ids_BT, batch.mask_BT), expected, atol=1e-5, rtol=0)


def _network(family: str) -> Any:
    return build(load_section(ARCHITECTURES[family] + "max_text_length: 20\n", family, Architecture))


def _examples(batch: Batch, labels: list[int], **more: Any) -> Examples:
    return Examples(batch.pixels_BCHW[:, None], torch.tensor(labels)[:, None], batch.ids_BT, batch.mask_BT, **more)


def test_answers_of_a_soho_are_scored_independently_of_each_other(make_batch: Callable[..., Batch]) -> None:
    torch.manual_seed(0)
    head = JointClassifier(_network("soho"), 4, answers=True).eval()
    assert isinstance(head.classifier, nn.Sequential)
    assert [type(part) for part in head.classifier] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    batch = make_batch(pairs=3)
    scores_BC = head(batch.pixels_BCHW[:, None], batch.ids_BT, batch.mask_BT)
    targets_BC = torch.eye(4)[[2, 0, 2]]
    p_BC = scores_BC.sigmoid()
    each_B = -(targets_BC * p_BC.log() + (1 - targets_BC) * (1 - p_BC).log()).sum(1)
    found = head.losses(_examples(batch, [2, 0, 2]))
    assert list(found) == ["bce"]
    torch.testing.assert_close(found["bce"], each_B.mean())


def test_a_coca_learns_to_write_beside_its_classes(make_batch: Callable[..., Batch]) -> None:
    torch.manual_seed(0)
    network = _network("coca")
    head = JointClassifier(network, 4).eval()
    batch, told = make_batch(pairs=3), make_batch(pairs=3, seed=1)
    found = head.losses(_examples(batch, [2, 0, 1], written=(told.ids_BT, told.mask_BT)))
    alone = head.losses(_examples(batch, [2, 0, 1]))
    assert list(alone) == ["ce"]
    torch.testing.assert_close(found["ce"], alone["ce"])
    own = network.losses(replace(told, pixels_BCHW=batch.pixels_BCHW), names=("lm",))
    torch.testing.assert_close(found["lm"], own["lm"])
