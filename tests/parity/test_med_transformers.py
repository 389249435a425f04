"""MED against transformers' Blip classes on tiny random weights, float32, equal to 1e-5.

The weights come by the names of the original code, so both ways of naming them are right or the outputs differ.
"""

from typing import Any

import pytest
import torch

from capfilt.config.decoding import Beam, Greedy
from capfilt.modeling.med import MED

SHAPES = [(2, 2, 32), (3, 1, 24), (1, 3, 16)]  # image layers, text layers, image size
BATCHES = [(1, 5, False), (3, 9, True), (5, 12, True)]  # pairs, longest text, padding
SEP, DEC = 2, 58
END_BIAS = 5.0
"""Random weights rarely end a text; with this, texts end at many lengths and finished beams compete."""


def ours_of(blip: Any, theirs: Any) -> MED:
    return MED.from_original(blip.original(theirs), blip.settings | {"itm_position": "cls"})


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_features_and_matching_equal_transformers(blip: Any, shape: tuple[int, int, int]) -> None:
    theirs = blip.make("filter", shape, 1)
    ours = ours_of(blip, theirs)
    assert ours.config.roles == ("filter",)
    for batch, length, padded in BATCHES:
        pixels, ids, mask = blip.inputs(batch, length, shape[2], padded=padded)
        image_embeds = ours.encode_image(pixels)
        torch.testing.assert_close(image_embeds, theirs.vision_model(pixels).last_hidden_state, atol=1e-5, rtol=0)
        states = theirs.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(ours.encode_text(ids, mask), states, atol=1e-5, rtol=0)
        text = torch.nn.functional.normalize(theirs.text_proj(states[:, 0]), dim=-1)
        torch.testing.assert_close(ours.text_features(ids, mask), text, atol=1e-5, rtol=0)
        image = torch.nn.functional.normalize(theirs.vision_proj(image_embeds[:, 0]), dim=-1)
        torch.testing.assert_close(ours.image_features(image_embeds), image, atol=1e-5, rtol=0)

        itm = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask).itm_score
        torch.testing.assert_close(ours.itm_logits(ids, mask, image_embeds), itm, atol=1e-5, rtol=1e-5)
        itc = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=False).itm_score
        cosine = ours.image_features(image_embeds) @ ours.text_features(ids, mask).T
        torch.testing.assert_close(cosine, itc, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_the_token_in_front_of_itm_is_the_one_that_the_settings_say(blip: Any) -> None:
    theirs = blip.make("filter", SHAPES[0], 1)
    pixels, ids, mask = blip.inputs(3, 9, 32)
    with_enc = ids.clone()
    with_enc[:, 0] = 59
    expected = theirs(input_ids=with_enc, pixel_values=pixels, attention_mask=mask).itm_score
    by_enc = MED.from_original(blip.original(theirs), blip.settings)  # [ENC], as BLIP trains and evaluates
    torch.testing.assert_close(by_enc.itm_logits(ids, mask, by_enc.encode_image(pixels)), expected, atol=1e-5, rtol=1e-5)
    by_cls = ours_of(blip, theirs)
    assert (by_cls.itm_logits(ids, mask, by_cls.encode_image(pixels)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("asked", "pixels_of"), [(None, 48), (48, 48), (16, 16)])
@torch.inference_mode()
def test_positions_are_interpolated_as_in_transformers(blip: Any, asked: int | None, pixels_of: int) -> None:
    theirs = blip.make("filter", SHAPES[0], 1)
    pixels = torch.randn(2, 3, pixels_of, pixels_of, generator=torch.Generator().manual_seed(0))
    expected = theirs.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    ours = MED.from_original(blip.original(theirs), blip.settings | ({"image_size": asked} if asked else {}))
    assert ours.config.image.size == (asked or 32)
    torch.testing.assert_close(ours.encode_image(pixels), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_next_token_logits_equal_transformers(blip: Any, shape: tuple[int, int, int]) -> None:
    theirs = blip.make("captioner", shape)
    ours = ours_of(blip, theirs)
    for batch, length, padded in BATCHES:
        pixels, ids, mask = blip.inputs(batch, length, shape[2], DEC, padded=padded)
        expected = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
        found = ours.lm_logits(ids, mask, ours.encode_image(pixels))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("activation", ["gelu_new", "quick_gelu"])
@torch.inference_mode()
def test_other_activations_equal_transformers(blip: Any, activation: str) -> None:
    changes = {"text": {"hidden_act": activation}, "image": {"hidden_act": activation}}
    theirs = blip.make("captioner", SHAPES[0], **changes)
    named = {"text_config": {"num_attention_heads": 4, "hidden_act": activation}, "vision_config": {"hidden_act": activation}}
    ours = MED.from_original(blip.original(theirs), {**blip.settings, **named})
    pixels, ids, mask = blip.inputs(3, 9, 32, DEC)
    expected = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(ours.lm_logits(ids, mask, ours.encode_image(pixels)), expected, atol=1e-5, rtol=1e-5)


DECODINGS = [
    Greedy(max_length=14, min_length=0),
    Greedy(max_length=14, min_length=9, repetition_penalty=1.4),
    Beam(max_length=14, min_length=0),
    Beam(max_length=14, min_length=6, length_penalty=0.0),
    Beam(max_length=14, min_length=8, beams=4, length_penalty=2.0, repetition_penalty=1.3),
]


@pytest.mark.parametrize("decoding", DECODINGS)
@torch.inference_mode()
def test_generated_ids_equal_transformers_up_to_the_first_end(blip: Any, decoding: Greedy | Beam) -> None:
    seen: list[list[int]] = []
    for seed in range(6):
        theirs = blip.make("captioner", SHAPES[0], seed, std=0.5)
        theirs.text_decoder.cls.predictions.decoder.bias[SEP] = END_BIAS
        ours = ours_of(blip, theirs)
        for batch in (1, 6):
            pixels, prompt, _ = blip.inputs(batch, 4, 32, DEC, padded=False)
            beams = {"num_beams": decoding.beams, "length_penalty": decoding.length_penalty} if isinstance(decoding, Beam) else {}
            expected = theirs.generate(
                pixels, prompt.clone(), do_sample=False, max_length=decoding.max_length, min_length=decoding.min_length,
                repetition_penalty=decoding.repetition_penalty, **beams,
            )  # fmt: skip
            found = ours.generate(ours.encode_image(pixels), prompt, decoding).ids_BnL[:, 0].tolist()
            assert [to_end(row) for row in found] == [to_end(row) for row in expected.tolist()]
            seen += [to_end(row) for row in found]
    # The comparison means something: texts differ, some end early, at different lengths, and some at the limit.
    assert len({tuple(row[3:]) for row in seen}) > 15
    assert len({len(row) for row in seen}) >= 3


def to_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(SEP) + 1] if SEP in ids else ids
