"""What somebody does who has read docs/paper_map.md and nothing else: names by keyword, dictionaries, one picture at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import capfilt
from capfilt.errors import CheckpointError, ConfigError, ContractError
from tests.parity import coca_reference
from tests.parity import test_blip2_qformer as qformer
from tests.parity.test_clipcap_transformers import TOLD as CLIPCAP_TOLD
from tests.parity.test_clipcap_transformers import checkpoint as clipcap_checkpoint
from tests.parity.test_soho_original import TOLD as SOHO_TOLD
from tests.parity.test_soho_original import make as soho_checkpoint

MED_CONFIG = {
    "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 48, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 32, "model_type": "bert", "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 0,
    "type_vocab_size": 2, "vocab_size": 60, "encoder_width": 24, "add_cross_attention": True,
}  # fmt: skip
"""As the original's configs/med_config.json has it."""
IDS = {"cls_token_id": 1, "sep_token_id": 2}
BEAM = {"kind": "beam", "beams": 3, "max_length": 10, "min_length": 0}
GREEDY = {"kind": "greedy", "max_length": 10, "min_length": 0}


def equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def pairs_of(blip: Any) -> dict[str, Tensor]:
    return dict(zip(("pixels", "ids", "mask"), blip.inputs(3, 8, 32), strict=True))


@pytest.mark.parametrize(
    "config",
    [
        {"med_config": MED_CONFIG, "image_size": 32, "vit": {"num_heads": 2}, **IDS},
        MED_CONFIG | IDS | {"image_size": 32, "num_heads": 2},
        {"text": MED_CONFIG | IDS, "image": {"img_size": 32, "num_heads": 2}},
    ],
)
def test_a_med_takes_the_originals_configuration_nested_or_flat(blip: Any, config: dict[str, Any]) -> None:
    expected = capfilt.MED.from_original(blip.pretraining((2, 2, 32)), blip.settings).config
    assert capfilt.MED.from_original({"model": blip.pretraining((2, 2, 32))}, config).config == expected


def test_a_vocabulary_without_berts_ids_is_told_of(blip: Any) -> None:
    with pytest.warns(UserWarning, match=r"no \[CLS\] 101 and \[SEP\] 102"):
        text = capfilt.MED.from_original(blip.pretraining((1, 1, 32)), {"num_heads": 2, "num_attention_heads": 4}).config.text
    assert (text.pad_id, text.cls_id, text.sep_id) == (0, 1, 2)


def test_a_med_is_used_by_the_documented_names(blip: Any) -> None:
    model = capfilt.MED.from_original(blip.pretraining((2, 2, 32)), blip.settings)
    batch = pairs_of(blip)
    ids, mask = batch["ids"], batch["mask"]
    with torch.no_grad():
        embeds = model.encode_image(pixels=batch["pixels"])
        assert model.encode_text(ids=ids, mask=mask).shape == (3, 8, 32)
        equal(model.image_features(image_embeds=embeds).norm(dim=-1), torch.ones(3))
        equal(model.text_features(ids=ids, mask=mask.bool()), model.text_features(ids, mask))
        logits = model.itm_logits(ids=ids, mask=mask, image_embeds=embeds)
        scores = model.lm_logits(ids=ids, mask=mask, image_embeds=embeds)
        for i in range(3):  # one picture at a time gives the same
            one = embeds[i : i + 1]
            equal(model.itm_logits(ids[i : i + 1], mask[i : i + 1], one), logits[i : i + 1])
            equal(model.lm_logits(ids[i : i + 1], mask[i : i + 1], one), scores[i : i + 1])
    for decoding in (BEAM, GREEDY):
        together = model.generate(image_embeds=embeds, prompt_ids=ids[0, :3], decoding=decoding).ids_BnL
        assert together.shape == (3, 1, 10)
        assert torch.equal(model.generate(embeds, ids[:1, :3].expand(3, -1), decoding).ids_BnL, together)
        assert torch.equal(model.generate(embeds[1:2], ids[0, :3], decoding).ids_BnL, together[1:2])


def test_a_batch_may_have_others_names_and_a_missing_tensor_is_named(blip: Any) -> None:
    batch = pairs_of(blip)
    others = {"image": batch["pixels"], "input_ids": batch["ids"], "attention_mask": batch["mask"]}
    ours, theirs = (
        capfilt.MED.from_original(blip.pretraining((1, 1, 32)), blip.settings).losses(given) for given in (batch, others)
    )
    assert set(ours) == {"itc", "itm", "lm"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(ContractError, match="give mask too"):
        capfilt.MED.from_original(blip.pretraining((1, 1, 32)), blip.settings).losses(
            {"pixels": batch["pixels"], "ids": batch["ids"]}
        )


@pytest.mark.parametrize("wrong", [{"kind": "beam", "num_beams": 3}, {"beams": 3}, {"kind": "greedy", "max_length": 0}])
def test_a_dictionary_that_is_no_decoding_is_refused(blip: Any, wrong: dict[str, Any]) -> None:
    model = capfilt.MED.from_original(blip.original(blip.make("captioner", (1, 1, 32))), blip.settings)
    with pytest.raises(ConfigError, match="expected greedy, beam or nucleus"):
        model.generate(model.encode_image(torch.randn(1, 3, 32, 32)), torch.tensor([1]), wrong)


def coca() -> Any:
    shape = coca_reference.Shape()
    return capfilt.CoCa.from_original({"state_dict": coca_reference.random_state(shape)}, shape.settings())


def clipcap() -> Any:
    return capfilt.ClipCap.from_original({"model": clipcap_checkpoint(("mlp", 5, 0, 0))[0]}, CLIPCAP_TOLD)


def soho() -> Any:
    return capfilt.SOHO.from_original({"state_dict": soho_checkpoint()}, SOHO_TOLD)


def text_of(start: int) -> dict[str, Tensor]:
    ids = torch.tensor([[start, 5, 9, 11, 6, 3]])
    return {"ids": ids, "mask": torch.ones_like(ids)}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_coca_is_used_by_the_documented_names(batch_size: int) -> None:
    model, text = coca(), {name: x.repeat(batch_size, 1) for name, x in text_of(coca_reference.START).items()}
    pixels = torch.randn(batch_size, 3, 32, 32)
    images = model.encode_image(pixels=pixels)
    assert model.pooled_queries(pixels).shape == images.shape
    equal(model.image_features(images=pixels), model.image_features(images))
    equal(model.text_features(**text).norm(dim=-1), torch.ones(batch_size))
    assert model.lm_logits(images=images, **text).shape == (batch_size, 6, coca_reference.VOCABULARY)
    assert set(model.losses({"image": pixels, **text})) == {"itc", "lm"}
    for decoding in (BEAM, GREEDY):
        prompt = torch.tensor([coca_reference.START])
        assert model.generate(images=images, prompt_ids=prompt, decoding=decoding).ids_BnL.shape == (batch_size, 1, 10)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_clipcap_is_used_by_the_documented_names(batch_size: int) -> None:
    model, text = clipcap(), {name: x.repeat(batch_size, 1) for name, x in text_of(4).items()}
    embeds = torch.randn(batch_size, 24)
    prefix = model.prefix_embeddings(embeds=embeds)
    assert prefix.shape == (batch_size, 5, 32)
    assert model.lm_logits(embeds=embeds, **text).shape == (batch_size, 5 + 6, 61)
    equal(model.losses({"prefix": embeds, "tokens": text["ids"]})["lm"], model.losses({"embeds": embeds, **text})["lm"])
    for decoding in (BEAM, GREEDY):
        assert model.generate(embeds=embeds, prompt_ids=None, decoding=decoding).ids_BnL.shape == (batch_size, 1, 10)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_soho_is_used_by_the_documented_names(batch_size: int) -> None:
    model, text = soho(), {name: x.repeat(batch_size, 1) for name, x in text_of(1).items()}
    pixels = torch.randn(batch_size, 3, 128, 128)
    with torch.no_grad():
        features = model.visual_features(pixels=pixels)
        indices = model.dictionary_indices(features=features)
        assert indices.shape == (batch_size, features.shape[2] * features.shape[3])
        embeds = model.encode_image(pixels=pixels)
        assert model.itm_logits(image_embeds=embeds, **text).shape == (batch_size, 2)
        assert model.mlm_logits(image_embeds=embeds, **text).shape == (batch_size, 6, 50)
        before = model.visual.dictionary.codes_KD.clone()
        model.update_dictionary(features=features, indices=indices)
        assert not torch.equal(model.visual.dictionary.codes_KD, before)
    assert set(model.losses({"pixel_values": pixels, "input_ids": text["ids"], "attention_mask": text["mask"]}))


@pytest.mark.parametrize("family", [coca, clipcap, soho])
def test_a_tensor_too_many_is_named(family: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model_class = type(family())
    real = model_class.from_original
    monkeypatch.setattr(
        model_class,
        "from_original",
        lambda content, config: real({**next(iter(content.values())), "stranger.weight": torch.zeros(2)}, config),
    )
    with pytest.raises(CheckpointError, match=r"stranger\.weight"):
        family()


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_q_former_is_used_by_the_documented_names(batch_size: int) -> None:
    state = qformer.lavis_state(qformer.retrieval())
    model = capfilt.QFormer.from_original({"model": state}, qformer.SETTINGS)
    text = {name: x.repeat(batch_size, 1) for name, x in text_of(qformer.CLS).items()}
    pixels = torch.randn(batch_size, 3, qformer.SIZE, qformer.SIZE)
    with torch.no_grad():
        embeds = model.encode_image(pixels=pixels)
        assert model.query_outputs(image_embeds=embeds).shape == (batch_size, qformer.QUERIES, qformer.WIDTH)
        equal(model.image_features(image_embeds=embeds).norm(dim=-1), torch.ones(batch_size, qformer.QUERIES))
        equal(model.text_features(**text).norm(dim=-1), torch.ones(batch_size))
        assert model.itm_logits(image_embeds=embeds, **text).shape == (batch_size, 2)
        assert model.lm_logits(image_embeds=embeds, **text).shape == (batch_size, 6, qformer.VOCABULARY)
    assert set(model.losses({"image": pixels, "input_ids": text["ids"], "attention_mask": text["mask"]})) == {"itc", "itm", "lm"}
    for decoding in (BEAM, GREEDY):
        found = model.generate(image_embeds=embeds, prompt_ids=torch.tensor([qformer.CLS]), decoding=decoding)
        assert found.ids_BnL.shape == (batch_size, 1, 10)


def test_a_q_former_takes_lavis_configuration_flat() -> None:
    state = qformer.lavis_state(qformer.retrieval())
    bert = {**MED_CONFIG, "cross_attention_freq": 2, "query_length": qformer.QUERIES, "max_position_embeddings": 24}
    told = bert | IDS | {"img_size": qformer.SIZE, "num_heads": 2, "num_query_token": qformer.QUERIES, "vit_model": "eva_clip_g"}
    expected = capfilt.QFormer.from_original(state, qformer.SETTINGS).config
    found = capfilt.QFormer.from_original(state, told).config
    assert (found.text.heads, found.text.queries, found.image.heads) == (4, qformer.QUERIES, 2)
    assert found.text.cross_every == expected.text.cross_every
