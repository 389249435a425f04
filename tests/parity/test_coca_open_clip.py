"""CoCa against open_clip's formulas on tiny random weights: float32 against float64, equal to 1e-5.

Where open_clip is installed, against its own network too. Beams against transformers, whose generation calls the float64 network
with the whole text at every step, without a cache.
"""

import copy
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from capfilt.config.architectures.coca import CocaArchitecture
from capfilt.config.decoding import Beam, Greedy
from capfilt.config.find import find_yaml
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.coca import CoCa
from capfilt.modeling.coca.checkpoint import to_original
from tests.parity.coca_reference import CONTEXT, END, PAD, START, VOCABULARY, Reference, Shape, random_state

SHAPES = [
    Shape(),
    Shape(width=48, image_width=48, image_layers=1, decoder_layers=1, size=24, queries=3),
    Shape(width=48, image_width=48, layout="parallel"),
    Shape(width=48, image_width=48, layout="cascade"),
]
BATCHES = [(1, 5, False), (3, CONTEXT, True), (5, 9, True)]  # pairs, longest text, padding


def inputs(pairs: int, length: int, size: int, *, padded: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(pairs * 100 + length)
    pixels = torch.randn(pairs, 3, size, size, generator=generator)
    ids = torch.randint(1, START, (pairs, length), generator=generator)
    ids[:, 0] = START
    if padded:
        lengths = torch.randint(3, length, (pairs,), generator=generator)
        lengths[0] = length  # one text without padding: its [CLS] sees itself under either mask
        ids[torch.arange(length)[None] >= lengths[:, None]] = PAD
    return pixels, ids


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_features_queries_logits_and_losses_equal_the_formulas(shape: Shape, corrected: bool) -> None:
    state = random_state(shape)
    expected = Reference(state, shape, corrected=corrected)
    ours = CoCa.from_original(state, shape.settings(corrected=corrected))
    for pairs, length, padded in BATCHES:
        pixels, ids = inputs(pairs, length, shape.size, padded=padded)
        features, tokens = expected.image(pixels)
        encoded = ours.encode_image(pixels)
        close(ours.caption_queries(encoded), tokens)
        close(ours.image_features(encoded), features)
        close(ours.image_features(pixels), features)
        close(ours.text_features(ids), expected.text(ids)[0])
        close(ours.encode_text(ids), expected.text(ids)[1])
        close(ours.lm_logits(ids, None, encoded), expected.logits(ids, tokens))
        contrast, caption = expected.losses(pixels, ids)
        found = ours.losses({"pixels": pixels, "ids": ids})
        close(found["itc"], contrast)
        close(found["lm"], caption)


@torch.inference_mode()
def test_the_two_masks_give_other_features_where_there_is_padding_and_only_there() -> None:
    state = random_state(SHAPES[0])
    released = CoCa.from_original(state, SHAPES[0].settings())
    corrected = CoCa.from_original(state, SHAPES[0].settings(corrected=True))
    _, ids = inputs(3, CONTEXT, 32, padded=True)
    differences = (released.text_features(ids) - corrected.text_features(ids)).abs().amax(1)
    assert differences[0] < 1e-6
    assert (differences[1:] > 1e-3).all()


def test_gradients_equal_those_of_the_formulas() -> None:
    shape = Shape(image_layers=1, text_layers=1, decoder_layers=1)
    state = random_state(shape)
    expected = Reference(state, shape)
    for tensor in expected.state.values():
        tensor.requires_grad_()
    pixels, ids = inputs(4, 8, shape.size, padded=True)
    contrast, caption = expected.losses(pixels, ids)
    (contrast + 2 * caption).backward()
    ours = CoCa.from_original(state, shape.settings())
    found = ours.losses({"pixels": pixels, "ids": ids})
    (found["itc"] + 2 * found["lm"]).backward()
    gradients = copy.deepcopy(ours)
    with torch.no_grad():
        for target, source in zip(gradients.parameters(), ours.parameters(), strict=True):
            assert source.grad is not None
            target.copy_(source.grad)
    for name, gradient in to_original(gradients).items():
        wanted = expected.state[name].grad
        assert wanted is not None, name
        close(gradient, wanted)


class Oracle(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The float64 network for transformers' generation."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, reference: Reference) -> None:
        super().__init__(PretrainedConfig(vocab_size=VOCABULARY, is_encoder_decoder=False))
        self.reference = reference
        self.generation_config = GenerationConfig()
        self.anchor = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, input_ids: Tensor, image_tokens: Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.reference.logits(input_ids, image_tokens))

    def prepare_inputs_for_generation(self, input_ids: Tensor, image_tokens: Tensor, **_: Any) -> dict[str, Tensor]:
        return {"input_ids": input_ids, "image_tokens": image_tokens}


DECODINGS = [
    Greedy(max_length=12, min_length=0),
    Greedy(max_length=12, min_length=7, repetition_penalty=1.4),
    Beam(max_length=12, min_length=0),
    Beam(max_length=12, min_length=6, beams=4, length_penalty=2.0, repetition_penalty=1.3),
]


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("decoding", DECODINGS)
@torch.inference_mode()
def test_generated_ids_equal_transformers_up_to_the_first_end(decoding: Greedy | Beam, corrected: bool) -> None:
    shape = Shape(image_layers=1, text_layers=1, decoder_layers=1, queries=3)
    seen: list[list[int]] = []
    for seed in range(3):
        state = random_state(shape, seed, std=0.5)
        reference = Reference(state, shape, corrected=corrected)
        ours = CoCa.from_original(state, shape.settings(corrected=corrected))
        for batch in (1, 4):
            pixels, _ = inputs(batch, 4, shape.size, padded=False)
            prompt = torch.tensor([START, 5 + seed]).expand(batch, -1)
            beams = {"num_beams": decoding.beams, "length_penalty": decoding.length_penalty} if isinstance(decoding, Beam) else {}
            expected = Oracle(reference).generate(
                prompt, image_tokens=reference.image(pixels)[1], do_sample=False, use_cache=False, pad_token_id=PAD,
                eos_token_id=END, max_length=decoding.max_length, min_length=decoding.min_length,
                repetition_penalty=decoding.repetition_penalty, **beams,
            )  # fmt: skip
            found = ours.generate(ours.encode_image(pixels), prompt, decoding).ids_BnL[:, 0].tolist()
            assert [to_end(row) for row in found] == [to_end(row) for row in expected.tolist()]
            seen += [to_end(row) for row in found]
    assert len({tuple(row[2:]) for row in seen}) > 5  # the comparison means something: texts differ


def to_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(END) + 1] if END in ids else ids


def test_the_weights_go_back_under_their_names_unchanged() -> None:
    for shape in SHAPES:
        state = random_state(shape)
        back = to_original(CoCa.from_original(state, shape.settings()))
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
        again = CoCa.from_original(back, CoCa.from_original(state, shape.settings()).config)
        assert all(torch.equal(to_original(again)[name], tensor) for name, tensor in state.items())


def test_wrappers_and_old_buffers_are_seen_through() -> None:
    state = random_state(SHAPES[0])
    plain = CoCa.from_original(state, SHAPES[0].settings()).state_dict()
    masks = {"text.attn_mask": torch.zeros(3, 3), "text_decoder.attn_mask": torch.zeros(3, 3)}
    shaped = state | {"logit_scale": state["logit_scale"][None]}
    wrapped = [{"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, {"model": state}, state | masks, shaped]
    for content in wrapped:
        found = CoCa.from_original(content, SHAPES[0].settings()).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


def test_everything_that_does_not_fit_is_listed() -> None:
    state = random_state(SHAPES[0])
    del state["text.cls_emb"]
    state["visual.proj"] = torch.zeros(7, 32)
    state["text.transformer.resblocks.0.ls_1.gamma"] = torch.zeros(32)
    with pytest.raises(CheckpointError) as caught:
        CoCa.from_original(state, SHAPES[0].settings())
    for part in ("missing text.cls_emb [32]", "misshapen visual.proj: expected [32, 32], found [7, 32]", "unexpected text.trans"):
        assert part in str(caught.value)


def test_what_is_no_coca_and_what_cannot_be_known_are_refused() -> None:
    state = random_state(SHAPES[0])
    with pytest.raises(CheckpointError, match=r"image\.heads"):
        CoCa.from_original(state)
    with pytest.raises(CheckpointError, match=r"visual\.attn_pool\.query"):
        CoCa.from_original({name: tensor for name, tensor in state.items() if "attn_pool" not in name}, SHAPES[0].settings())
    with pytest.raises(ConfigError, match="pool_type"):
        CoCa.from_original(state, {"vision_cfg": {"pool_type": "avg"}})
    with pytest.raises(ConfigError, match="colour"):
        CoCa.from_original(state, SHAPES[0].settings() | {"colour": 3})


@pytest.mark.parametrize(
    "change", [{"image": {"style": "vit"}}, {"multimodal": {"self_mlp": False}}, {"pooler": {"norm": "after"}}]
)
def test_a_layout_that_open_clip_has_not_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="open_clip's layout"):
        CoCa.from_original(random_state(SHAPES[3]), SHAPES[3].settings() | change)


@torch.inference_mode()
def test_another_image_size_interpolates_the_positions() -> None:
    state = random_state(SHAPES[0])
    larger = CoCa.from_original(state, SHAPES[0].settings() | {"image_size": 48})
    same = CoCa.from_original(state, SHAPES[0].settings())
    assert larger.config.image.size == 48
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    close(larger.encode_image(pixels), same.encode_image(pixels))


@pytest.mark.parametrize(("name", "millions"), [("coca_ViT-B-32", 253.56), ("coca_ViT-L-14", 638.45)])
def test_the_released_models_have_the_size_that_open_clip_states(name: str, millions: float) -> None:
    from capfilt.modeling.coca.fields import RELEASED
    from capfilt.modeling.published import read_fields

    with torch.device("meta"):
        model = CoCa(CocaArchitecture.model_validate(read_fields(find_yaml(RELEASED[name], "models"))))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)


if find_spec("open_clip") is not None:

    @pytest.mark.parametrize("shape", SHAPES[:2])
    @torch.inference_mode()
    def test_features_and_logits_equal_open_clip(shape: Shape) -> None:
        from open_clip.coca_model import CoCa as OpenClipCoCa

        sizes = {"image_size": shape.size, "layers": shape.image_layers, "patch_size": 8, "attentional_pool": True}
        vision = shape.settings()["vision_cfg"] | sizes | {"attn_pooler_queries": shape.queries, "output_tokens": True}
        text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": shape.width}
        theirs = OpenClipCoCa(
            embed_dim=shape.width,
            vision_cfg=vision,
            text_cfg=text | {"heads": 4, "layers": shape.text_layers, "mlp_ratio": 2.0, "embed_cls": True, "output_tokens": True},
            multimodal_cfg=text | {"heads": 2, "layers": shape.decoder_layers},
        ).eval()
        state = random_state(shape)
        theirs.load_state_dict(state)
        ours = CoCa.from_original(state, shape.settings())
        for pairs, length, padded in BATCHES:
            pixels, ids = inputs(pairs, length, shape.size, padded=padded)
            features, tokens = theirs._encode_image(pixels)
            text_features, states = theirs._encode_text(ids)
            close(ours.image_features(pixels), features)
            close(ours.text_features(ids), text_features)
            close(ours.lm_logits(ids, None, pixels), theirs.text_decoder(tokens, states))
