"""The decoding engine, on a network whose next-token distribution is written down, and on a tiny MED."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capfilt.config.decoding import Beam, Greedy, Nucleus
from capfilt.errors import ConfigError, ContractError
from capfilt.modeling.decoding import generate, smaller_batch
from capfilt.modeling.med import MED, MedDecoder
from capfilt.modeling.noise import gumbel, seeds_tensor
from capfilt.modeling.scores import candidates, penalised

EOS = 1


class Chain:
    """A Markov chain over tokens: the cache remembers which image a row belongs to and is checked at every step."""

    eos_id, pad_id, longest = EOS, 0, 40

    def __init__(self, log_p_IVV: Tensor) -> None:
        self.log_p_IVV = log_p_IVV
        self.batch_sizes: list[int] = []

    def start(self, image_embeds: Tensor, prompt_BP: Tensor, rows_per_image: int, max_length: int) -> tuple[Tensor, "ChainCache"]:
        cache = ChainCache(image_embeds.repeat_interleave(rows_per_image), prompt_BP.repeat_interleave(rows_per_image, 0))
        return self.log_p_IVV[image_embeds, prompt_BP[:, -1]], cache

    def step(self, ids_R: Tensor, cache: "ChainCache") -> Tensor:
        self.batch_sizes.append(len(ids_R))
        cache.texts = torch.cat([cache.texts, ids_R[:, None]], dim=1)
        return self.log_p_IVV[cache.images, ids_R]


class ChainCache:
    def __init__(self, images: Tensor, texts: Tensor) -> None:
        self.images, self.texts = images, texts

    def reorder(self, rows_R: Tensor) -> None:
        assert torch.equal(self.images[rows_R], self.images)
        self.texts = self.texts[rows_R]

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        self.images, self.texts = self.images[rows_R], self.texts[rows_R]


def chain(images: int = 1, vocabulary: int = 12, seed: int = 0) -> Chain:
    generator = torch.Generator().manual_seed(seed)
    return Chain((torch.randn(images, vocabulary, vocabulary, generator=generator) * 2).log_softmax(-1))


def prompt(images: int) -> Tensor:
    return torch.full((images, 2), 5)


def test_nucleus_draws_each_token_as_often_as_its_renormalised_probability() -> None:
    network = chain()
    p = network.log_p_IVV[0, 5].exp().double().numpy()
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), 0.8) + 1)]
    expected = np.zeros(12)
    expected[kept] = p[kept] / p[kept].sum()
    decoding = Nucleus(max_length=3, min_length=0, top_p=0.8)
    found = generate(network, torch.zeros(1, dtype=torch.int64), prompt(1), decoding, seeds=[list(range(20_000))])
    drawn = Counter(found.ids_BnL[0, :, 2].tolist())
    assert 1 < len(kept) < 12
    np.testing.assert_allclose([drawn[token] / 20_000 for token in range(12)], expected, atol=0.012)


def test_temperature_and_top_k_shape_the_distribution() -> None:
    network = chain()
    scores = network.log_p_IVV[0, 5].double() / 0.5
    top = scores.topk(3)
    expected = dict(zip(top.indices.tolist(), top.values.softmax(0).tolist(), strict=True))
    decoding = Nucleus(max_length=3, min_length=0, top_p=1.0, top_k=3, temperature=0.5)
    found = generate(network, torch.zeros(1, dtype=torch.int64), prompt(1), decoding, seeds=[list(range(10_000))])
    drawn = Counter(found.ids_BnL[0, :, 2].tolist())
    assert set(drawn) <= set(expected)
    for token, p in expected.items():
        assert drawn[token] / 10_000 == pytest.approx(p, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=8, max_size=8),
    other=st.lists(st.integers(0, 2**64 - 1), min_size=8, max_size=8),
    place=st.integers(0, 7),
    new_place=st.integers(0, 7),
)
def test_a_caption_depends_on_its_image_and_seed_and_on_nothing_beside_it(
    seeds: list[int], other: list[int], place: int, new_place: int
) -> None:
    network, decoding = chain(images=9, seed=1), Nucleus(max_length=12, min_length=4)
    images = torch.arange(8)
    found = generate(network, images, prompt(8), decoding, seeds=[[seed] for seed in seeds])
    moved, moved_seeds = torch.full((8,), 8), [[seed] for seed in other]
    moved[new_place], moved_seeds[new_place] = images[place], [seeds[place]]
    again = generate(network, moved, prompt(8), decoding, seeds=moved_seeds)
    assert torch.equal(found.ids_BnL[place], again.ids_BnL[new_place])
    assert torch.equal(found.log_prob_Bn[place], again.log_prob_Bn[new_place])


@torch.inference_mode()
def test_a_row_of_med_is_the_same_to_the_bit_among_other_neighbours(model: MED) -> None:
    model.eval()
    pixels = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    decoding, start = Nucleus(max_length=16, min_length=3), torch.tensor([2, 7])
    seeds = [[k, k + 100] for k in range(16)]
    first = model.generate(model.encode_image(pixels), start, decoding, seeds=seeds)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    order[3:6] = 15  # other neighbours, too
    second = model.generate(model.encode_image(pixels[order]), start, decoding, seeds=[seeds[k] for k in order])
    assert torch.equal(first.ids_BnL[order], second.ids_BnL)
    assert torch.equal(first.log_prob_Bn[order], second.log_prob_Bn)


@torch.inference_mode()
def test_log_prob_is_that_of_the_text_under_the_plain_network(model: MED) -> None:
    model.eval()
    embeds = model.encode_image(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    start = torch.tensor([2, 7])
    choices = [
        Greedy(max_length=10, min_length=6, repetition_penalty=1.5),
        Beam(max_length=10, min_length=6, repetition_penalty=1.5),
        Nucleus(max_length=10, min_length=6, temperature=0.7, top_p=0.5),
    ]
    for decoding in choices:
        found = model.generate(embeds, start, decoding, seeds=[[1], [2], [3]])
        ids = found.ids_BnL[:, 0]
        log_p = model.lm_logits(ids, torch.ones_like(ids), embeds).log_softmax(-1)
        own = log_p[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0]
        ended = (ids == 3).cumsum(1) - (ids == 3).int() > 0
        expected = own.masked_fill(ended[:, 1:], 0.0)[:, 1:].sum(1)
        torch.testing.assert_close(found.log_prob_Bn[:, 0], expected, atol=1e-4, rtol=1e-5)


def test_no_text_ends_before_its_minimal_length_and_none_exceeds_the_maximal() -> None:
    network = chain(images=4, seed=2)
    network.log_p_IVV[:, :, EOS] += 5
    for decoding in (Greedy(max_length=9, min_length=7), Beam(max_length=9, min_length=7), Nucleus(max_length=9, min_length=7)):
        ids = generate(network, torch.arange(4), prompt(4), decoding, seeds=[[1], [2], [3], [4]]).ids_BnL[:, 0]
        ends = torch.where((ids == EOS).any(1), (ids == EOS).int().argmax(1), 9)
        assert ids.shape == (4, 9)
        assert (ends >= 7).all()
        assert (ends == 7).any()
        assert all((row[end + 1 :] == 0).all() for row, end in zip(ids, ends, strict=True))


def test_a_batch_shrinks_by_halves_and_not_below_eight_rows() -> None:
    network = chain(images=64, seed=3)
    network.log_p_IVV[:48, :, EOS] += 30  # three quarters end at once
    network.log_p_IVV[48:, :, EOS] -= 30
    found = generate(network, torch.arange(64), prompt(64), Greedy(max_length=8, min_length=0))
    assert network.batch_sizes == [16] * 5
    alone = generate(network, torch.arange(48, 64), prompt(16), Greedy(max_length=8, min_length=0))
    assert torch.equal(found.ids_BnL[48:], alone.ids_BnL)
    assert [smaller_batch(64, 1, 1), smaller_batch(64, 33, 1), smaller_batch(12, 1, 1), smaller_batch(6, 1, 1)] == [8, 64, 12, 6]
    assert smaller_batch(8, 2, 4) == 2


@settings(max_examples=40, deadline=None)
@given(top_p=st.floats(0.05, 0.999), sharpness=st.floats(0.1, 6.0), seed=st.integers(0, 1000))
def test_the_nucleus_is_the_same_with_and_without_a_full_sort(top_p: float, sharpness: float, seed: int) -> None:
    scores = torch.randn(2, 700, generator=torch.Generator().manual_seed(seed)) * sharpness
    tokens, log_p = candidates(scores, top_p, None, 1.0)
    for row in range(2):
        p, order = scores[row].softmax(0).sort(descending=True)
        expected = set(order[(p.cumsum(0) - p) < top_p].tolist())
        found = set(tokens[row][log_p[row] > -torch.inf].tolist())
        assert len(found ^ expected) <= 1  # sums of float32 may disagree on the border token
        assert int(order[0]) in found


def test_the_repetition_penalty_lowers_what_was_said_whatever_its_sign() -> None:
    found = penalised(torch.tensor([[2.0, -2.0, 4.0, -4.0]]), torch.tensor([[0, 1, 1]]), 2.0)
    assert found.tolist() == [[1.0, -4.0, 4.0, -4.0]]


def test_noise_is_standard_gumbel_and_differs_between_seeds_steps_and_tokens() -> None:
    tokens = torch.arange(50_000)[None]
    seeds = seeds_tensor([0, 2**64 - 1, 12345], torch.device("cpu"))
    noise = torch.cat([gumbel(seeds, step, tokens.expand(3, -1)) for step in (0, 1)])
    assert torch.isfinite(noise).all()
    assert noise.mean(1).sub(0.5772).abs().max() < 0.03
    assert noise.var(1).sub(np.pi**2 / 6).abs().max() < 0.06
    correlation = torch.corrcoef(noise) - torch.eye(6)
    assert correlation.abs().max() < 0.02
    assert len(set(noise.flatten().tolist())) > 299_900


def test_lengths_and_seeds_that_cannot_work_are_refused() -> None:
    network = chain()
    with pytest.raises(ConfigError, match="max_length"):
        generate(network, torch.zeros(1, dtype=torch.int64), prompt(1), Greedy(max_length=41))
    with pytest.raises(ConfigError, match="prompt"):
        generate(network, torch.zeros(1, dtype=torch.int64), prompt(1), Greedy(max_length=2, min_length=0))
    with pytest.raises(ContractError, match="seeds"):
        generate(network, torch.arange(2) * 0, prompt(2), Nucleus(), seeds=[[1], [1, 2]])


def test_equally_probable_tokens_stay_or_go_together() -> None:
    scores = torch.tensor([[3.0] * 3 + [1.0] * 300 + [-30.0] * 400])
    tokens, log_p = candidates(scores, 0.5, None, 1.0)
    kept = tokens[0][log_p[0] > -torch.inf].tolist()
    assert sorted(kept) == list(range(303)), "the border lies within 300 equals, beyond the first prefix"
    assert candidates(scores, 0.05, None, 1.0)[0].tolist()[0] != []
    assert sorted(candidates(scores, 0.05, None, 1.0)[0][0].tolist()) == [0, 1, 2]


def test_a_rows_nucleus_does_not_depend_on_how_far_its_neighbours_reaches() -> None:
    generator = torch.Generator().manual_seed(0)
    peaked = (torch.randn(1, 5000, generator=generator) * 4).bfloat16().float()
    flat = torch.randn(1, 5000, generator=generator) * 0.1
    alone_tokens, alone = candidates(peaked, 0.9, None, 1.0)
    tokens, log_p = candidates(torch.cat([peaked, flat]), 0.9, None, 1.0)
    expected = dict(zip(alone_tokens[0].tolist(), alone[0].tolist(), strict=True))
    found = {t: p for t, p in zip(tokens[0].tolist(), log_p[0].tolist(), strict=True) if p > -torch.inf}
    assert found == {t: p for t, p in expected.items() if p > -torch.inf}
    assert len(found) < 2500 < int((log_p[1] > -torch.inf).sum())


@torch.inference_mode()
def test_images_are_looked_at_without_a_copy_per_caption_or_step(model: MED) -> None:
    """Keys and values of an image exist once, contiguous: a product with strided ones copies them at every call."""
    embeds = model.eval().encode_image(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    decoder = MedDecoder(model)
    scores, cache = decoder.start(embeds, torch.tensor([[2, 7], [2, 7]]), 5, 16)
    assert len(scores) == 2
    before = [x.data_ptr() for pair in (*cache.image_kv, *cache.own) for x in pair]
    for token in (5, 6):
        assert decoder.step(torch.full((10,), token), cache).shape[0] == 10
    assert [x.data_ptr() for pair in (*cache.image_kv, *cache.own) for x in pair] == before
    assert all(len(x) == 2 and x.is_contiguous() for pair in cache.image_kv for x in pair)
    assert all(len(x) == 10 and x.shape[2] == 16 for pair in cache.own for x in pair)


@pytest.mark.parametrize("look_every", [2, 4, 100])
def test_looking_seldom_changes_no_text(look_every: int) -> None:
    network = chain(images=6, vocabulary=40, seed=4)
    network.log_p_IVV[:, :, EOS] += 2
    seeds = [[i, i + 50] for i in range(6)]
    for decoding in (Greedy(max_length=15, min_length=0), Nucleus(max_length=15, min_length=4, top_k=7), Nucleus(max_length=15)):
        often = generate(network, torch.arange(6), prompt(6), decoding, seeds=seeds)
        seldom = generate(network, torch.arange(6), prompt(6), decoding, seeds=seeds, look_every=look_every)
        assert torch.equal(often.ids_BnL, seldom.ids_BnL)
        assert torch.equal(often.log_prob_Bn, seldom.log_prob_Bn)


def test_a_nucleus_that_is_too_wide_for_a_seldom_look_is_taken_whole() -> None:
    wide = Chain((torch.randn(2, 1200, 1200, generator=torch.Generator().manual_seed(0)) * 0.1).log_softmax(-1))
    decoding, seeds = Nucleus(max_length=6, min_length=0, top_p=0.95), [[1, 2, 3], [4, 5, 6]]
    often = generate(wide, torch.arange(2), prompt(2), decoding, seeds=seeds)
    seldom = generate(wide, torch.arange(2), prompt(2), decoding, seeds=seeds, look_every=4)
    assert torch.equal(often.ids_BnL, seldom.ids_BnL)
    too_wide = torch.zeros((), dtype=torch.bool)
    candidates(wide.log_p_IVV[:, 0], 0.95, None, 1.0, too_wide)
    assert bool(too_wide)
