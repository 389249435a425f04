"""MED against transformers' Blip classes on tiny random weights, float32, equal to 1e-5."""

import pytest
import torch
from torch import Tensor

from capfilt.config.architecture import MedArchitecture, TextConfig, VisionConfig
from capfilt.config.decoding import Beam, Greedy
from capfilt.modeling.med import MED

transformers = pytest.importorskip("transformers")

PAD, CLS, SEP, DEC, ENC, VOCABULARY = 0, 1, 2, 58, 59, 60
END_BIAS = 5.0
"""Random weights rarely end a text; with this, texts end at many lengths and finished beams compete."""
SHAPES = [(2, 2, 32), (3, 1, 24)]  # image layers, text layers, image size


def our_config(image_layers: int, text_layers: int, size: int) -> MedArchitecture:
    return MedArchitecture(
        kind="med",
        image=VisionConfig(size=size, patch=8, width=24, layers=image_layers, heads=2),
        text=TextConfig(
            vocab_size=VOCABULARY,
            width=32,
            layers=text_layers,
            heads=4,
            intermediate=48,
            max_positions=32,
            cls_id=CLS,
            sep_id=SEP,
        ),
        embed_dim=16,
        itm_position="cls",
    )


def their_config(image_layers: int, text_layers: int, size: int) -> "transformers.BlipConfig":
    return transformers.BlipConfig(
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": 32, "encoder_hidden_size": 24, "intermediate_size": 48,
            "num_hidden_layers": text_layers, "num_attention_heads": 4, "max_position_embeddings": 32, "projection_dim": 16,
            "bos_token_id": DEC, "sep_token_id": SEP, "pad_token_id": PAD, "eos_token_id": SEP,
        },
        vision_config={
            "hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": image_layers, "num_attention_heads": 2,
            "image_size": size, "patch_size": 8, "layer_norm_eps": 1e-6, "projection_dim": 16,
        },
        image_text_hidden_size=16, projection_dim=16,
    )  # fmt: skip


def randomise(module: torch.nn.Module, seed: int, std: float = 0.15) -> None:
    """Norm weights near one, all else normal: what comes out then depends on what goes in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + (1.0 if is_norm_weight else 0.0))


def copy_module(theirs: dict[str, Tensor], source: str, ours: torch.nn.Module) -> None:
    with torch.no_grad():
        ours.weight.copy_(theirs[f"{source}.weight"])
        ours.bias.copy_(theirs[f"{source}.bias"])


def copy_joined(theirs: dict[str, Tensor], sources: list[str], ours: torch.nn.Linear) -> None:
    with torch.no_grad():
        ours.weight.copy_(torch.cat([theirs[f"{source}.weight"] for source in sources]))
        ours.bias.copy_(torch.cat([theirs[f"{source}.bias"] for source in sources]))


def copy_vision(theirs: dict[str, Tensor], model: MED) -> None:
    with torch.no_grad():
        model.vision.cls.copy_(theirs["vision_model.embeddings.class_embedding"])
        model.vision.positions.copy_(theirs["vision_model.embeddings.position_embedding"])
    copy_module(theirs, "vision_model.embeddings.patch_embedding", model.vision.stem)
    copy_module(theirs, "vision_model.post_layernorm", model.vision.norm)
    for i, block in enumerate(model.vision.blocks):
        prefix = f"vision_model.encoder.layers.{i}"
        copy_module(theirs, f"{prefix}.self_attn.qkv", block.attention.qkv)
        copy_module(theirs, f"{prefix}.self_attn.projection", block.attention.out)
        copy_module(theirs, f"{prefix}.layer_norm1", block.norm_1)
        copy_module(theirs, f"{prefix}.layer_norm2", block.norm_2)
        copy_module(theirs, f"{prefix}.mlp.fc1", block.mlp.up)
        copy_module(theirs, f"{prefix}.mlp.fc2", block.mlp.down)


def copy_text(theirs: dict[str, Tensor], prefix: str, tower: torch.nn.Module) -> None:
    with torch.no_grad():
        tower.embeddings.words.weight.copy_(theirs[f"{prefix}.embeddings.word_embeddings.weight"])
        tower.embeddings.positions.weight.copy_(theirs[f"{prefix}.embeddings.position_embeddings.weight"])
    copy_module(theirs, f"{prefix}.embeddings.LayerNorm", tower.embeddings.norm)
    for i, layer in enumerate(tower.layers):
        at = f"{prefix}.encoder.layer.{i}"
        copy_joined(theirs, [f"{at}.attention.self.{x}" for x in ("query", "key", "value")], layer.self_block.attention.qkv)
        copy_module(theirs, f"{at}.attention.output.dense", layer.self_block.attention.out)
        copy_module(theirs, f"{at}.attention.output.LayerNorm", layer.self_block.norm)
        copy_module(theirs, f"{at}.crossattention.self.query", layer.cross.attention.q)
        copy_joined(theirs, [f"{at}.crossattention.self.{x}" for x in ("key", "value")], layer.cross.attention.kv)
        copy_module(theirs, f"{at}.crossattention.output.dense", layer.cross.attention.out)
        copy_module(theirs, f"{at}.crossattention.output.LayerNorm", layer.cross.norm)
        copy_module(theirs, f"{at}.intermediate.dense", layer.feed_forward.mlp.up)
        copy_module(theirs, f"{at}.output.dense", layer.feed_forward.mlp.down)
        copy_module(theirs, f"{at}.output.LayerNorm", layer.feed_forward.norm)


def captioner_pair(
    shape: tuple[int, int, int], seed: int = 0, std: float = 0.15
) -> tuple["transformers.BlipForConditionalGeneration", MED]:
    theirs = transformers.BlipForConditionalGeneration(their_config(*shape)).eval()
    randomise(theirs, seed, std)
    ours = MED(our_config(*shape)).eval()
    state = theirs.state_dict()
    copy_vision(state, ours)
    copy_text(state, "text_decoder.bert", ours.text_decoder)
    head = "text_decoder.cls.predictions"
    copy_module(state, f"{head}.transform.dense", ours.head.dense)
    copy_module(state, f"{head}.transform.LayerNorm", ours.head.norm)
    copy_module(state, f"{head}.decoder", ours.head.vocabulary)
    return theirs, ours


def filter_pair(shape: tuple[int, int, int]) -> tuple["transformers.BlipForImageTextRetrieval", MED]:
    theirs = transformers.BlipForImageTextRetrieval(their_config(*shape)).eval()
    randomise(theirs, 1)
    ours = MED(our_config(*shape)).eval()
    state = theirs.state_dict()
    copy_vision(state, ours)
    copy_text(state, "text_encoder", ours.text_encoder)
    copy_module(state, "vision_proj", ours.image_projection)
    copy_module(state, "text_proj", ours.text_projection)
    copy_module(state, "itm_head", ours.itm_head)
    return theirs, ours


def inputs(batch: int, length: int, size: int, first: int, *, padded: bool) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    pixels = torch.randn(batch, 3, size, size, generator=generator)
    ids = torch.randint(3, 58, (batch, length), generator=generator)
    ids[:, 0] = first
    lengths = torch.randint(3, length + 1, (batch,), generator=generator) if padded else torch.full((batch,), length)
    ids[torch.arange(batch), lengths - 1] = SEP
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    return pixels, ids * mask, mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("batch", "length", "padded"), [(1, 5, False), (3, 9, True), (5, 12, True)])
@torch.inference_mode()
def test_features_and_matching_equal_transformers(shape: tuple[int, int, int], batch: int, length: int, padded: bool) -> None:
    theirs, ours = filter_pair(shape)
    pixels, ids, mask = inputs(batch, length, shape[2], CLS, padded=padded)
    image_embeds = ours.encode_image(pixels)
    torch.testing.assert_close(image_embeds, theirs.vision_model(pixels).last_hidden_state, atol=1e-5, rtol=0)

    itm = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask).itm_score
    torch.testing.assert_close(ours.itm_logits(ids, mask, image_embeds), itm, atol=1e-5, rtol=1e-5)
    itc = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask, use_itm_head=False).itm_score
    cosine = ours.image_features(image_embeds) @ ours.text_features(ids, mask).T
    torch.testing.assert_close(cosine, itc, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_learned_positions_are_interpolated_to_another_image_size_as_in_transformers() -> None:
    theirs, ours = filter_pair(SHAPES[0])
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    expected = theirs.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(ours.encode_image(pixels), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("batch", "length", "padded"), [(1, 5, False), (3, 9, True), (5, 12, True)])
@torch.inference_mode()
def test_next_token_logits_equal_transformers(shape: tuple[int, int, int], batch: int, length: int, padded: bool) -> None:
    theirs, ours = captioner_pair(shape)
    pixels, ids, mask = inputs(batch, length, shape[2], DEC, padded=padded)
    expected = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
    found = ours.lm_logits(ids, mask, ours.encode_image(pixels))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


DECODINGS = [
    Greedy(max_length=14, min_length=0),
    Greedy(max_length=14, min_length=9, repetition_penalty=1.4),
    Beam(max_length=14, min_length=0),
    Beam(max_length=14, min_length=6, length_penalty=0.0),
    Beam(max_length=14, min_length=8, beams=4, length_penalty=2.0, repetition_penalty=1.3),
]


@pytest.mark.parametrize("decoding", DECODINGS)
@torch.inference_mode()
def test_generated_ids_equal_transformers_up_to_the_first_end(decoding: Greedy | Beam) -> None:
    seen: list[list[int]] = []
    for seed in range(6):
        theirs, ours = captioner_pair(SHAPES[0], seed, std=0.5)
        for head in (theirs.text_decoder.cls.predictions.decoder, ours.head.vocabulary):
            head.bias[SEP] = END_BIAS
        for batch in (1, 6):
            pixels, prompt, _ = inputs(batch, 4, 32, DEC, padded=False)
            beams = {"num_beams": decoding.beams, "length_penalty": decoding.length_penalty} if isinstance(decoding, Beam) else {}
            expected = theirs.generate(
                pixels, prompt.clone(), do_sample=False, max_length=decoding.max_length, min_length=decoding.min_length,
                repetition_penalty=decoding.repetition_penalty, **beams,
            )  # fmt: skip
            found = ours.generate(ours.encode_image(pixels), prompt[:, :-1], decoding).ids_BnL[:, 0].tolist()
            assert [to_end(row) for row in found] == [to_end(row) for row in expected.tolist()]
            seen += [to_end(row) for row in found]
    # The comparison means something: texts differ, some end early, at different lengths, and some at the limit.
    assert len({tuple(row[3:]) for row in seen}) > 15
    assert len({len(row) for row in seen}) >= 3


def to_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(SEP) + 1] if SEP in ids else ids
