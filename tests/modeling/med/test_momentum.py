from collections.abc import Callable

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capfilt.modeling.batch import Batch
from capfilt.modeling.med import MED
from capfilt.modeling.med.momentum import FeatureQueue, MomentumEncoders


def test_an_update_moves_every_copy_by_one_minus_the_momentum(model: MED) -> None:
    momentum = MomentumEncoders(model)
    before = {name: p.double().clone() for name, p in momentum.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    momentum.update(model)
    online = dict(model.named_parameters())
    for name, parameter in momentum.named_parameters():
        expected = 0.995 * before[name] + 0.005 * online[name].double()
        torch.testing.assert_close(parameter.double(), expected, atol=1e-6, rtol=0)


def test_a_fresh_copy_gives_the_features_of_its_model(model: MED, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    image, text = MomentumEncoders(model).features(batch.pixels_BCHW, batch.ids_BT, batch.mask_BT)
    torch.testing.assert_close(image, model.image_features(model.encode_image(batch.pixels_BCHW)))
    torch.testing.assert_close(text, model.text_features(batch.ids_BT, batch.mask_BT))


def test_no_copy_asks_for_a_gradient(model: MED) -> None:
    assert not any(p.requires_grad for p in MomentumEncoders(model).parameters())
    assert all(p.requires_grad for p in model.parameters())


@settings(max_examples=30, deadline=None)
@given(size=st.integers(0, 7), batches=st.lists(st.integers(1, 9), max_size=5))
def test_the_queue_holds_the_last_features_whatever_the_batches(size: int, batches: list[int]) -> None:
    queue = FeatureQueue(size, 2, torch.Generator().manual_seed(0))
    pushed: list[int] = []
    for count in batches:
        ids = torch.arange(len(pushed), len(pushed) + count)
        features = ids[:, None].float().expand(-1, 2)
        queue.enqueue(features, -features, ids)
        pushed += ids.tolist()
    held = queue.image_ids_Q.tolist()
    assert sorted(x for x in held if x >= 0) == (pushed[-size:] if size else [])
    for place, image_id in enumerate(held):
        if image_id >= 0:
            assert queue.image_QE[place].tolist() == [image_id, image_id]
            assert queue.text_QE[place].tolist() == [-image_id, -image_id]
