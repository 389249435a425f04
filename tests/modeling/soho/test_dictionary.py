"""The dictionary against its formulas in float64: index, straight-through gradient, both updates, masking, positions."""

import math

import numpy as np
import pytest
import torch

from capfilt.config.architectures.soho import VisualDictionaryConfig
from capfilt.modeling.soho.dictionary import (
    VisualDictionary,
    VisualEmbedding,
    same_code,
    sine_positions,
    visible_positions,
)

CODES, WIDTH = 9, 8


def make(seed: int = 0, **changes: object) -> VisualDictionary:
    torch.manual_seed(seed)
    return VisualDictionary(VisualDictionaryConfig.model_validate({"codes": CODES, **changes}), WIDTH)


def batch(seed: int, count: int = 40) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def nearest(features: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return ((features[:, None] - codes[None]) ** 2).sum(-1).argmin(1)


@pytest.mark.parametrize("count", [1, 40])
def test_the_index_is_that_of_the_nearest_code(count: int) -> None:
    dictionary, features = make(), batch(1, count)
    expected = nearest(features.double().numpy(), dictionary.codes_KD.double().numpy())
    assert dictionary.indices(features).tolist() == expected.tolist()


def test_bfloat16_autocast_does_not_change_the_index() -> None:
    dictionary, features = make(), batch(1, 200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dictionary.indices(features), dictionary.indices(features.clone()))
    assert (
        dictionary.indices(features).tolist() == nearest(features.double().numpy(), dictionary.codes_KD.double().numpy()).tolist()
    )


def test_the_code_goes_forward_and_the_gradient_passes_through() -> None:
    dictionary, features = make(), batch(1).requires_grad_()
    indices = dictionary.indices(features)
    out = dictionary(features, indices)
    torch.testing.assert_close(out, dictionary.codes_KD[indices])
    weight = batch(2)
    (out * weight).sum().backward()
    assert torch.equal(features.grad, weight)
    assert not dictionary.codes_KD.requires_grad


@pytest.mark.parametrize("decay", [0.99, 0.4])
def test_ema_mean_is_the_papers_formula(decay: float) -> None:
    dictionary = make(update="ema_mean", decay=decay)
    codes = dictionary.codes_KD.double().numpy().copy()
    uses = np.zeros(CODES, dtype=int)
    for seed in range(4):
        features = batch(seed, 6)
        found = nearest(features.double().numpy(), codes)
        indices = dictionary.indices(features)
        assert indices.tolist() == found.tolist()
        dictionary.update(features, indices)
        for j in set(found):
            codes[j] = decay * codes[j] + (1 - decay) * features.double().numpy()[found == j].mean(0)
            uses[j] += (found == j).sum()
    np.testing.assert_allclose(dictionary.codes_KD.numpy(), codes, atol=1e-5)
    assert dictionary.uses_K.tolist() == uses.tolist()
    assert 0 in uses  # so that an unused code was seen to stay


@pytest.mark.parametrize("unused", ["fade", "keep"])
def test_ema_count_is_the_published_codes_formula(unused: str) -> None:
    dictionary = make(update="ema_count", decay=0.4, unused=unused)
    codes = dictionary.codes_KD.double().numpy().copy()
    size, total = np.zeros(CODES), np.zeros((CODES, WIDTH))
    seen_unused = False
    for seed in range(4):
        features = batch(seed, 6)
        exact = features.double().numpy()
        found = nearest(exact, codes)
        dictionary.update(features, torch.from_numpy(found))
        one_hot = np.eye(CODES)[found]
        size = 0.4 * size + 0.6 * one_hot.sum(0)
        total = 0.4 * total + 0.6 * one_hot.T @ exact
        smooth = (size + 1e-5) / (size.sum() + CODES * 1e-5) * size.sum()
        moved = total / smooth[:, None]
        is_used = one_hot.sum(0)[:, None] > 0
        seen_unused |= not is_used.all()
        codes = np.where(is_used, moved, codes) if unused == "keep" else moved
        np.testing.assert_allclose(dictionary.codes_KD.numpy(), codes, atol=1e-5)
    assert seen_unused
    np.testing.assert_allclose(dictionary.counts_K.numpy(), size, atol=1e-5)
    np.testing.assert_allclose(dictionary.sums_KD.numpy(), total, atol=1e-5)


def test_an_unused_code_dies_only_where_that_is_asked() -> None:
    for changes, dies in (({}, False), ({"update": "ema_count", "decay": 0.4}, False)):
        dictionary = make(**changes)
        before = dictionary.codes_KD.clone()
        dictionary.update(batch(0, 1), torch.tensor([2]))
        rest = [j for j in range(CODES) if j != 2]
        assert torch.equal(dictionary.codes_KD[rest], before[rest]) is not dies
    fading = make(update="ema_count", decay=0.4, unused="fade")
    fading.update(batch(0, 1), torch.tensor([2]))
    assert fading.codes_KD[[j for j in range(CODES) if j != 2]].abs().max() == 0


@pytest.mark.parametrize("mix", ["gate", "sum", "code"])
def test_tokens_are_what_the_mix_says(mix: str) -> None:
    torch.manual_seed(0)
    config = VisualDictionaryConfig.model_validate({"codes": CODES, "mix": mix, "norm": False, "line_before": True})
    visual = VisualEmbedding(config, 5, WIDTH).double().requires_grad_(False)
    trunk = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    features = visual.features(trunk)
    pooled = trunk.reshape(2, 5, 2, 2, 3, 2).amax((3, 5))
    weight, bias = visual.projection.conv.weight[:, :, 0, 0], visual.projection.conv.bias
    v = (pooled.permute(0, 2, 3, 1) @ weight.T + bias).reshape(2, 6, WIDTH)
    torch.testing.assert_close(features.flatten(2).transpose(1, 2), v)
    looked_up = v @ visual.line_before.weight.T + visual.line_before.bias
    index = torch.from_numpy(nearest(looked_up.flatten(0, 1).numpy(), visual.dictionary.codes_KD.numpy()))
    code = visual.dictionary.codes_KD[index].reshape(2, 6, WIDTH) @ visual.line_after.weight.T + visual.line_after.bias
    expected = code
    if mix == "sum":
        expected = code + v
    if mix == "gate":
        gate = visual.gate.conv
        share = (torch.cat([code, v], dim=-1) @ gate.weight[:, :, 0, 0].T + gate.bias).softmax(-1)
        expected = code * share[..., :1] + v * share[..., 1:]
    found = visual(features, visual.looked_up(features), visual.dictionary.indices(visual.looked_up(features)))
    torch.testing.assert_close(found, expected)


def test_masking_stands_before_positions() -> None:
    visual = VisualEmbedding(VisualDictionaryConfig(codes=CODES), 5, WIDTH)
    visible = torch.ones(1, 2, 3, dtype=torch.bool)
    masked = torch.tensor([[True, False, True, False, False, True]])
    mixed = torch.randn(1, 6, WIDTH)
    found = visual.place(mixed, visible, masked)
    positions = sine_positions(visible, WIDTH)
    torch.testing.assert_close(found[0, 0], visual.norm(visual.mask[0] + positions[0, 0]))
    torch.testing.assert_close(found[0, 1], visual.norm(mixed[0, 1] + positions[0, 1]))
    assert not torch.allclose(found[0, 0], found[0, 2])


def test_all_positions_of_one_code_are_masked_together() -> None:
    indices = torch.tensor([[4, 7, 4, 1], [4, 4, 4, 2], [3, 3, 5, 5], [6, 6, 6, 6]])
    visible = torch.ones_like(indices, dtype=torch.bool)
    visible[1, 2] = visible[3, 1] = False
    found = same_code(indices, visible, torch.tensor([2, 0, 3, 1]), torch.tensor([True, True, False, True]))
    # pair 1: the third is padding; pair 2 is not chosen; pair 3's location is padding
    assert found.tolist() == [[True, False, True, False], [True, True, False, False], [False] * 4, [False] * 4]


def test_sine_positions_are_those_of_the_formula() -> None:
    rows, columns, width = 3, 5, 12
    visible = torch.zeros(1, rows, columns + 2, dtype=torch.bool)
    visible[:, :, :columns] = True
    found = sine_positions(visible, width)[0].view(rows, columns + 2, width)
    half = width // 2
    for row in range(rows):
        for column in range(columns):
            for i in range(width):
                place, last = (row + 1, rows) if i < half else (column + 1, columns)
                k = i % half
                angle = place / (last + 1e-6) * 2 * math.pi / 10_000 ** (2 * (k // 2) / half)
                expected = math.sin(angle) if k % 2 == 0 else math.cos(angle)
                assert abs(float(found[row, column, i]) - expected) < 1e-5


def test_padding_is_found_by_height_and_width_apart() -> None:
    sizes = torch.tensor([[64, 192], [128, 64], [65, 128]])
    found = visible_positions(sizes, (128, 192), (2, 3))
    assert found.tolist() == [
        [[True, True, True], [False, False, False]],
        [[True, False, False], [True, False, False]],
        [[True, True, False], [True, True, False]],
    ]
