"""A decoder-only language model behind a prefix: its cache gives what no cache gives, and what transformers generates."""

from typing import Any

import pytest
import torch
from torch import Tensor

from capfilt.config.decoding import Beam, Greedy, Nucleus
from capfilt.errors import CheckpointError
from capfilt.modeling.causal_lm import (
    LanguageDecoder,
    embed_tokens,
    hidden_states,
    load_language_model,
    longest_text,
    next_token_scores,
)
from capfilt.modeling.decoding import generate

transformers = pytest.importorskip("transformers")
VOCABULARY, WIDTH, PREFIX = 40, 16, 3
END = {"gpt2": 31, "opt": 3}
"""Tokens that these weights write often, so that texts end at many lengths and finished beams compete."""


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=64, n_embd=WIDTH, n_layer=2, n_head=2, bos_token_id=None, pad_token_id=0,
            eos_token_id=END["gpt2"], initializer_range=0.5,
        )
    )  # fmt: skip


def opt() -> Any:
    return transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=VOCABULARY, max_position_embeddings=64, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=32,
            num_hidden_layers=2, num_attention_heads=2, bos_token_id=1, eos_token_id=END["opt"], pad_token_id=0, init_std=0.5,
        )
    )  # fmt: skip


@pytest.fixture(params=[gpt2, opt], ids=["gpt2", "opt"])
def network(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return request.param().eval()


def prefixes(images: int, seed: int = 0) -> Tensor:
    return torch.randn(images, PREFIX, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2


def decoder(network: Any) -> LanguageDecoder:
    return LanguageDecoder(network, eos_id=network.config.eos_token_id, pad_id=0, prefix_length=PREFIX)


def without_cache(network: Any, prefix: Tensor, ids: Tensor) -> Tensor:
    """Scores of the next token of each text, all computed again."""
    vectors = torch.cat([prefix, embed_tokens(network, ids)], dim=1)
    return next_token_scores(network, hidden_states(network, vectors)[:, -1])


@torch.inference_mode()
def test_steps_equal_the_network_without_a_cache_through_reordering_and_shrinking(network: Any) -> None:
    prefix, prompt = prefixes(3), torch.tensor([[5, 9]]).expand(3, -1)
    scores, cache = decoder(network).start(prefix, prompt, 2, 12)
    torch.testing.assert_close(scores, without_cache(network, prefix, prompt), atol=1e-5, rtol=1e-5)
    rows_prefix, texts = prefix.repeat_interleave(2, 0), prompt.repeat_interleave(2, 0)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        chosen = torch.randint(1, VOCABULARY, (len(texts),), generator=generator)
        texts = torch.cat([texts, chosen[:, None]], dim=1)
        scores = decoder(network).step(chosen, cache)
        torch.testing.assert_close(scores, without_cache(network, rows_prefix, texts), atol=1e-5, rtol=1e-5)
        if step == 1:
            rows = torch.tensor([1, 1, 2, 2, 5, 4])
            cache.reorder(rows)
            rows_prefix, texts = rows_prefix[rows], texts[rows]
        if step == 2:
            cache.keep(torch.tensor([0, 2]), torch.tensor([0, 1, 4, 5]))
            rows_prefix, texts = rows_prefix[[0, 1, 4, 5]], texts[[0, 1, 4, 5]]


@torch.inference_mode()
def test_keys_and_values_are_allocated_once(network: Any) -> None:
    _, cache = decoder(network).start(prefixes(2), torch.empty(2, 0, dtype=torch.int64), 1, 9)
    layers = cache.of_model.layers
    places = [(layer.all_keys.data_ptr(), layer.all_values.data_ptr()) for layer in layers]
    for _ in range(8):
        decoder(network).step(torch.tensor([3, 4]), cache)
        cache.reorder(torch.tensor([1, 1]))
    assert [(layer.all_keys.data_ptr(), layer.all_values.data_ptr()) for layer in layers] == places
    assert {layer.all_keys.shape[2] for layer in layers} == {PREFIX + 9}
    assert cache.of_model.get_seq_length() == PREFIX + 8


@pytest.mark.parametrize(
    "decoding",
    [
        Greedy(max_length=14, min_length=0),
        Greedy(max_length=14, min_length=6, repetition_penalty=1.4),
        Beam(max_length=14, min_length=0),
        Beam(max_length=14, min_length=5, beams=5, length_penalty=0.0),
        Beam(max_length=14, min_length=3, beams=4, length_penalty=2.0, repetition_penalty=1.3),
    ],
)
@torch.inference_mode()
def test_texts_equal_what_transformers_generates_behind_the_same_vectors(network: Any, decoding: Greedy | Beam) -> None:
    end = network.config.eos_token_id
    seen: set[tuple[int, ...]] = set()
    for seed, images in enumerate((1, 6, 9)):
        prefix = prefixes(images, seed)
        beams = {"num_beams": decoding.beams, "length_penalty": decoding.length_penalty} if isinstance(decoding, Beam) else {}
        expected = network.generate(
            inputs_embeds=prefix, attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64), do_sample=False,
            max_new_tokens=decoding.max_length, min_new_tokens=decoding.min_length or None,
            repetition_penalty=decoding.repetition_penalty, **beams,
        ).tolist()  # fmt: skip
        empty = torch.empty(images, 0, dtype=torch.int64)
        found = generate(decoder(network), prefix, empty, decoding).ids_BnL[:, 0].tolist()
        assert [to_end(row, end) for row in found] == [to_end(row, end) for row in expected]
        seen |= {tuple(to_end(row, end)) for row in found}
    assert len(seen) > 8
    assert len({len(row) for row in seen}) > 1


def to_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids


@torch.inference_mode()
def test_a_prompt_stands_between_prefix_and_text_and_a_text_depends_on_its_own_row_alone(network: Any) -> None:
    prefix, prompt, decoding = prefixes(16), torch.tensor([[5, 9]]).expand(16, -1), Nucleus(max_length=12, min_length=3)
    seeds = [[k, k + 100] for k in range(16)]
    found = generate(decoder(network), prefix, prompt, decoding, seeds=seeds)
    assert found.ids_BnL[:, :, :2].unique(dim=0).tolist() == [[[5, 9], [5, 9]]]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    again = generate(decoder(network), prefix[order], prompt, decoding, seeds=[seeds[k] for k in order])
    assert torch.equal(found.ids_BnL[order], again.ids_BnL)
    assert len(found.ids_BnL.flatten(0, 1).unique(dim=0)) > 20


def test_a_saved_folder_is_loaded_and_anything_else_is_refused(network: Any, tmp_path: Any) -> None:
    network.save_pretrained(tmp_path / "model")
    loaded = load_language_model(tmp_path / "model")
    prefix = prefixes(2)
    torch.testing.assert_close(hidden_states(loaded, prefix), hidden_states(network, prefix))
    assert not loaded.training
    assert longest_text(loaded, PREFIX) == 64 - PREFIX
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="decoder-only"):
        load_language_model(tmp_path / "empty")
