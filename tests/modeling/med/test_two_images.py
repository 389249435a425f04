from collections.abc import Callable

import torch

from capfilt.modeling.batch import Batch
from capfilt.modeling.med import MED
from capfilt.modeling.med.network import with_first
from capfilt.modeling.med.two_images import MedTwoImages, TwinCross


def _linear(network: MedTwoImages) -> TwinCross:
    """The upper layer's, which merges by a linear map; the lower one's has none."""
    lower, upper = network.twins
    assert isinstance(lower, TwinCross)
    assert isinstance(upper, TwinCross)
    assert lower.merge is None
    assert upper.merge is not None
    return upper


@torch.inference_mode()
def test_one_picture_twice_is_read_as_one_where_the_linear_map_takes_the_mean(
    model: MED, make_batch: Callable[..., Batch]
) -> None:
    network = MedTwoImages(model.eval()).eval()
    merge = _linear(network).merge
    assert merge is not None
    merge.weight.copy_(torch.cat([torch.eye(16), torch.eye(16)], dim=1) / 2)
    batch = make_batch(pairs=3)
    embeds = model.encode_image(batch.pixels_BCHW)
    ids = with_first(batch.ids_BT, model.config.text.enc_id)
    alone = model.text_encoder(ids, batch.mask_BT, model.text_encoder.image_kv(embeds), first_only=True)[:, 0]
    torch.testing.assert_close(network(batch.ids_BT, batch.mask_BT, embeds, embeds), alone, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_each_picture_counts_and_so_does_their_order(model: MED, make_batch: Callable[..., Batch]) -> None:
    network = MedTwoImages(model.eval()).eval()
    batch, other = make_batch(pairs=2), make_batch(pairs=2, seed=1)
    first, second = model.encode_image(batch.pixels_BCHW), model.encode_image(other.pixels_BCHW)
    found = [network(batch.ids_BT, batch.mask_BT, *pair) for pair in ((first, second), (first, first), (second, first))]
    assert (found[0] - found[1]).abs().max() > 1e-4
    assert (found[0] - found[2]).abs().max() > 1e-4


@torch.inference_mode()
def test_padding_of_the_text_changes_nothing(model: MED, make_batch: Callable[..., Batch]) -> None:
    network = MedTwoImages(model.eval()).eval()
    batch = make_batch(pairs=4)
    embeds = model.encode_image(batch.pixels_BCHW)
    together = network(batch.ids_BT, batch.mask_BT, embeds, embeds.flip(0))
    for row, length in enumerate(batch.mask_BT.sum(1).tolist()):
        text = (batch.ids_BT[row : row + 1, :length], batch.mask_BT[row : row + 1, :length])
        alone = network(*text, embeds[row : row + 1], embeds.flip(0)[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_both_looks_begin_with_the_trained_weights_and_then_part(model: MED) -> None:
    twin = _linear(MedTwoImages(model))
    assert torch.equal(twin.first.kv.weight, twin.second.kv.weight)
    with torch.no_grad():
        twin.first.kv.weight.add_(1)
    assert not torch.equal(twin.first.kv.weight, twin.second.kv.weight)
    assert twin.first.kv.weight is model.text_encoder.in_order()[1].cross.attention.kv.weight  # type: ignore[union-attr]
