"""Packed weights: faster, and nothing else."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from capfilt.config.decoding import Greedy
from capfilt.modeling.med import MED
from capfilt.modeling.packed import PackedLinear, can_pack, pack

DTYPES = [
    pytest.param(dtype, marks=pytest.mark.skipif(not can_pack(dtype), reason="this processor has no kernels for it"))
    for dtype in (torch.float32, torch.bfloat16)
]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def layer(dtype: torch.dtype, width: int = 512) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 512)).to(dtype)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5 if found.dtype == torch.float32 else 1e-2, rtol=1e-5)


@each_dtype
def test_a_packed_map_gives_what_the_plain_one_gives(dtype: torch.dtype) -> None:
    plain, packed = layer(dtype), layer(dtype)
    pack(packed)
    assert isinstance(packed[0], PackedLinear)
    with torch.inference_mode():
        for shape in ((1, 512), (8, 512), (3, 5, 512), (300, 512)):
            x = torch.randn(shape).to(dtype)
            assert packed[0]._packed is not None
            close(packed(x), plain(x))
        strided = torch.randn(4, 7, 512).to(dtype)[:, 0]
        close(packed(strided), plain(strided))


@each_dtype
def test_a_row_is_the_same_to_the_bit_among_other_neighbours_and_places(dtype: torch.dtype) -> None:
    packed = layer(dtype)
    pack(packed)
    with torch.inference_mode():
        for rows in (8, 100):
            x, order = torch.randn(rows, 512).to(dtype), torch.randperm(rows)
            first = packed(x)
            assert torch.equal(packed(x[order]), first[order])
            x[rows // 2 :] = 7.0
            assert torch.equal(packed(x)[: rows // 2], first[: rows // 2])


@each_dtype
@torch.inference_mode()
def test_a_packed_model_writes_and_matches_as_the_plain_one(model: MED, dtype: torch.dtype) -> None:
    model.eval().to(dtype)
    packed = copy.deepcopy(model)
    pack(packed, narrowest=0)
    assert any(isinstance(module, PackedLinear) for module in packed.modules())
    pixels = torch.randn(3, 3, 16, 16).to(dtype)
    ids = torch.tensor([[2, 7, 9, 3]] * 3)
    found = []
    for one in (model, packed):
        embeds = one.encode_image(pixels)
        made = one.generate(embeds, ids[0, :2], Greedy(max_length=10, min_length=0))
        found.append((made.ids_BnL, one.itm_logits(ids, torch.ones_like(ids), embeds)))
    assert torch.equal(found[0][0], found[1][0])
    close(found[1][1], found[0][1])


def test_packing_leaves_names_ties_and_tensors_as_they_are(model: MED) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pack(model, narrowest=0)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert model.head.vocabulary.weight is model.text_decoder.embeddings.words.weight
    assert model.text_decoder.layers[0].feed_forward is model.text_encoder.layers[0].feed_forward


@each_dtype
def test_new_weights_a_new_type_and_copies_are_noticed(dtype: torch.dtype) -> None:
    packed = layer(dtype)
    pack(packed)
    x = torch.randn(2, 512).to(dtype)
    with torch.no_grad():
        was = packed(x)
        for copied in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
            close(copied(x), was)
        packed[0].weight.fill_(0.0)
        packed[0].bias.fill_(1.0)
        assert packed(x).eq(1).all()
        assert packed.double()(x.double()).dtype == torch.float64


def test_gradients_flow_through_packed_maps() -> None:
    packed = layer(torch.float32)
    pack(packed)
    packed(torch.randn(2, 512)).sum().backward()
    assert packed[0].weight.grad is not None
    assert packed[0].weight.grad.abs().max() > 0


def test_narrow_maps_stay_plain() -> None:
    small = layer(torch.float32, width=256)
    pack(small)
    assert type(small[0]) is nn.Linear
