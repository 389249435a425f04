"""The Q-Former against transformers' Blip2ForImageTextRetrieval and an own float64 computation, tiny random weights, to 1e-5."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from capfilt.config.decoding import Beam, Greedy, Nucleus
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.blip2.decoding import QFormerDecoder
from capfilt.modeling.blip2.original import to_original
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.decoding import generate

transformers = pytest.importorskip("transformers")
_spec = importlib.util.spec_from_file_location("blip2_reference", Path(__file__).with_name("blip2_reference.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
Reference = _module.Reference

VOCABULARY, CLS, SEP, DEC, QUERIES, WIDTH, SIZE = 60, 1, 2, 59, 5, 32, 32
SETTINGS = {"image": {"heads": 2}, "text": {"heads": 4, "cls_id": CLS, "sep_id": SEP}}
RENAMED = [  # transformers' names -> LAVIS', written out once more
    (r"^vision_model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
    (r"^vision_model\.encoder\.layers", "visual_encoder.blocks"),
    (r"^vision_model\.post_layernorm", "ln_vision"),
    (r"\.self_attn\.qkv", ".attn.qkv"),
    (r"\.self_attn\.projection", ".attn.proj"),
    (r"\.layer_norm([12])", r".norm\1"),
    (r"^qformer\.layernorm", "Qformer.bert.embeddings.LayerNorm"),
    (r"^qformer\.", "Qformer.bert."),
    (r"attention\.attention\.", "attention.self."),
    (r"^embeddings\.", "Qformer.bert.embeddings."),
    (r"^vision_projection", "vision_proj"),
    (r"^text_projection", "text_proj"),
]


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in state.items():
        for theirs, original in RENAMED:
            name = re.sub(theirs, original, name)
        found[name] = tensor.detach().clone()
        if name.endswith("attn.qkv.bias"):
            q, k, v = found.pop(name).chunk(3)
            assert not k.any()
            found[name.replace("qkv.bias", "q_bias")], found[name.replace("qkv.bias", "v_bias")] = q, v
    return {name: tensor for name, tensor in found.items() if not name.endswith("position_ids")}


def config_of(layers: int = 4, cross_every: int = 2, **text: Any) -> Any:
    return transformers.Blip2Config(
        vision_config={
            "hidden_size": 24, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIZE,
            "patch_size": 8, "layer_norm_eps": 1e-6,
        },
        qformer_config={
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": 4,
            "intermediate_size": 48, "max_position_embeddings": 24, "cross_attention_frequency": cross_every,
            "encoder_hidden_size": 24, "use_qformer_text_input": True,
        },
        text_config=text or {"model_type": "opt", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        num_query_tokens=QUERIES,
        image_text_hidden_size=12,
    )  # fmt: skip


@torch.no_grad()
def randomise(network: Any, seed: int, std: float = 0.15) -> Any:
    """Norm weights near one, all else normal: what comes out then depends on what goes in."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        is_norm_weight = parameter.ndim == 1 and name.endswith("weight")
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + (1.0 if is_norm_weight else 0.0))
        if name.endswith("qkv.bias"):
            width = len(parameter) // 3
            parameter[width : 2 * width] = 0
    return network.eval()


def retrieval(seed: int = 0, **changes: Any) -> Any:
    return randomise(transformers.Blip2ForImageTextRetrieval(config_of(**changes)), seed)


def lavis_state(theirs: Any, seed: int = 0, std: float = 0.15) -> dict[str, Tensor]:
    """A whole stage 1: what transformers leaves out is added."""
    generator = torch.Generator().manual_seed(seed + 100)
    state = renamed(theirs.state_dict())
    root = "Qformer.cls.predictions."
    state["temp"] = torch.tensor(0.09)
    state[f"{root}transform.dense.weight"] = torch.randn(WIDTH, WIDTH, generator=generator) * std
    state[f"{root}transform.dense.bias"] = torch.randn(WIDTH, generator=generator) * std
    state[f"{root}transform.LayerNorm.weight"] = 1 + torch.randn(WIDTH, generator=generator) * std
    state[f"{root}transform.LayerNorm.bias"] = torch.randn(WIDTH, generator=generator) * std
    state[f"{root}decoder.weight"] = state["Qformer.bert.embeddings.word_embeddings.weight"].clone()
    state[f"{root}decoder.bias"] = torch.randn(VOCABULARY, generator=generator) * std
    state[f"{root}bias"] = state[f"{root}decoder.bias"][:-1].clone()  # as enlarging the vocabulary leaves it
    state["Qformer.bert.embeddings.position_ids"] = torch.arange(24)[None]
    return state


def inputs(batch: int, length: int, *, padded: bool = True, size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch * 100 + length)
    pixels = torch.randn(batch, 3, size, size, generator=generator)
    ids = torch.randint(5, DEC, (batch, length), generator=generator)
    ids[:, 0] = CLS
    lengths = torch.randint(3, length + 1, (batch,), generator=generator) if padded else torch.full((batch,), length)
    lengths[0] = length
    ids[torch.arange(batch), lengths - 1] = SEP
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    return pixels, ids * mask, mask


BATCHES = [(1, 5, False), (3, 9, True), (5, 12, True)]


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 2), (3, 1), (5, 3), (1, 2)])
@torch.inference_mode()
def test_outputs_features_and_scores_equal_transformers(shape: tuple[int, int]) -> None:
    theirs = retrieval(layers=shape[0], cross_every=shape[1])
    ours = QFormer.from_original(renamed(theirs.state_dict()), SETTINGS | {"bridge_norm_eps": 1e-6})
    assert ours.config.roles == ("filter",)
    assert ours.config.text.queries == QUERIES
    for batch, length, padded in BATCHES:
        pixels, ids, mask = inputs(batch, length, padded=padded)
        embeds = ours.encode_image(pixels)
        close(embeds, theirs.vision_model(pixels).last_hidden_state)
        queried = theirs.qformer(
            query_embeds=theirs.query_tokens.expand(batch, -1, -1), encoder_hidden_states=embeds
        ).last_hidden_state
        close(ours.query_outputs(embeds), queried)
        itc = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask)
        close(ours.image_features(embeds), itc.image_embeds)
        close(ours.text_features(ids, mask), itc.text_embeds)
        close(ours.itc_similarities(ours.image_features(embeds), ours.text_features(ids, mask)), itc.logits_per_image)
        itm = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=True)
        close(ours.itm_logits(ids, mask, embeds), itm.logits_per_image)


@pytest.mark.parametrize("cross_every", [1, 2])
@torch.inference_mode()
def test_all_heads_equal_the_float64_computation(cross_every: int) -> None:
    state = lavis_state(retrieval(cross_every=cross_every))
    ours = QFormer.from_original({"model": {f"module.{name}": x for name, x in state.items()}}, SETTINGS)
    assert ours.config.roles == ("captioner", "filter")
    reference = Reference(state, 4, cross_every, DEC)
    for batch, length, padded in BATCHES:
        _, ids, mask = inputs(batch, length, padded=padded)
        features = torch.randn(batch, 17, 24, generator=torch.Generator().manual_seed(batch))
        embeds = ours.encode_image(features)
        close(ours.query_outputs(embeds), reference.query_outputs(features))
        close(ours.image_features(embeds), reference.image_features(features))
        close(ours.text_features(ids, mask), reference.text_features(ids, mask))
        close(ours.itm_logits(ids, mask, embeds), reference.itm_logits(features, ids, mask))
        close(ours.lm_logits(ids, mask, embeds), reference.lm_logits(features, ids, mask))


@torch.inference_mode()
def test_several_texts_of_an_image_score_as_each_alone() -> None:
    ours = QFormer.from_original(lavis_state(retrieval()), SETTINGS)
    pixels, ids, mask = inputs(6, 9)
    embeds = ours.encode_image(pixels[:2])
    image_of_text = torch.tensor([0, 0, 0, 1, 1, 1])
    one_by_one = torch.cat([ours.itm_logits(ids[i : i + 1], mask[i : i + 1], embeds[i // 3 : i // 3 + 1]) for i in range(6)])
    close(ours.itm_logits(ids, mask, embeds), one_by_one)
    close(ours.itm_logits(ids, mask, embeds, image_of_text), one_by_one)
    shuffled = torch.tensor([5, 0, 3])
    close(ours.itm_logits(ids[shuffled], mask[shuffled], embeds, image_of_text[shuffled]), one_by_one[shuffled])
    written = torch.cat([ours.lm_logits(ids[i : i + 1], mask[i : i + 1], embeds[i // 3 : i // 3 + 1]) for i in range(6)])
    close(ours.lm_logits(ids, mask, embeds), written)


@pytest.mark.parametrize("images", [[0, 1, 2, 3], [7, 7, 2, 7]])
def test_losses_and_gradients_equal_the_float64_formulas(images: list[int]) -> None:
    state = lavis_state(retrieval())
    ours = QFormer.from_original(state, SETTINGS | {"text": SETTINGS["text"] | {"dropout": 0.0, "attention_dropout": 0.0}})
    _, ids, mask = inputs(4, 9)
    features = torch.randn(4, 17, 24, generator=torch.Generator().manual_seed(3))
    image_ids, negatives = torch.tensor(images), (torch.tensor([2, 2, 1, 2]), torch.tensor([2, 2, 0, 2]))
    watched = {name: x.double().requires_grad_() for name, x in state.items() if x.is_floating_point()}
    reference = Reference(watched, 4, 2, DEC)
    reference.state = watched
    expected = reference.losses(features, ids, mask, image_ids, negatives)
    batch = {"pixels": features, "ids": ids, "mask": mask, "image_ids": image_ids}
    found = ours.train().losses(batch, negatives=negatives)
    assert list(found) == ["itc", "itm", "lm"]
    for mine, theirs in zip(found.values(), expected, strict=True):
        close(mine, theirs)
    sum(found.values()).backward()
    sum(expected).backward()
    for mine, name in (
        (ours.tower.queries, "query_tokens"),
        (ours.temp, "temp"),
        (ours.bridge_norm.weight, "ln_vision.weight"),
        (ours.tower.layers[0].query_feed_forward.mlp.up.weight, "Qformer.bert.encoder.layer.0.intermediate_query.dense.weight"),
        (ours.tower.layers[1].feed_forward.mlp.up.weight, "Qformer.bert.encoder.layer.1.intermediate.dense.weight"),
        (ours.tower.layers[2].cross.attention.q.weight, "Qformer.bert.encoder.layer.2.crossattention.self.query.weight"),
    ):
        torch.testing.assert_close(mine.grad.double(), watched[name].grad, atol=1e-4, rtol=1e-3)


class Uncached:
    """ITG as a decoder that computes every text anew in float64."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference
        self.eos_id, self.pad_id, self.longest = SEP, 0, 24

    def start(self, features: Tensor, prompt: Tensor, n: int, max_length: int) -> tuple[Tensor, "Uncached"]:
        self.features, self.ids, self.n = features.repeat_interleave(n, 0), prompt.repeat_interleave(n, 0), n
        return self._scores()[::n], self

    def step(self, ids: Tensor, cache: "Uncached") -> Tensor:
        self.ids = torch.cat([self.ids, ids[:, None]], 1)
        return self._scores()

    def _scores(self) -> Tensor:
        scores: Tensor = self.reference.lm_logits(self.features, self.ids, torch.ones_like(self.ids))[:, -1]
        return scores.float()

    def reorder(self, rows: Tensor) -> None:
        self.ids = self.ids[rows]

    def keep(self, images: Tensor, rows: Tensor) -> None:
        self.features, self.ids = self.features[rows], self.ids[rows]


DECODINGS = [
    Greedy(max_length=14, min_length=0),
    Greedy(max_length=14, min_length=8, repetition_penalty=1.4),
    Beam(max_length=14, min_length=0),
    Beam(max_length=14, min_length=6, beams=4, length_penalty=0.0),
    Nucleus(max_length=14, min_length=4, top_p=0.9),
]


@pytest.mark.parametrize("decoding", DECODINGS)
@torch.inference_mode()
def test_captions_equal_an_uncached_decoding(decoding: Any) -> None:
    seen = set()
    for seed in range(2):
        theirs = randomise(transformers.Blip2ForImageTextRetrieval(config_of()), seed, 0.5)
        state = lavis_state(theirs, seed, 0.5)
        state["Qformer.cls.predictions.decoder.bias"][SEP] += 2.0
        ours = QFormer.from_original(state, SETTINGS)
        reference = Reference(state, 4, 2, DEC)
        for batch in (1, 9):
            features = torch.randn(batch, 17, 24, generator=torch.Generator().manual_seed(seed))
            n = 2 if isinstance(decoding, Nucleus) else 1
            seeds = [[17 * i + k for k in range(n)] for i in range(batch)]
            prompt = torch.tensor([CLS, 7, 9, SEP])
            found = ours.generate(ours.encode_image(features), prompt, decoding, seeds=seeds)
            begun = torch.tensor([DEC, 7, 9]).expand(batch, -1)
            expected = generate(Uncached(reference), features, begun, decoding, seeds=seeds)
            assert torch.equal(found.ids_BnL, expected.ids_BnL)
            torch.testing.assert_close(found.log_prob_Bn, expected.log_prob_Bn, atol=1e-4, rtol=1e-4)
            seen |= {tuple(row) for row in found.ids_BnL.flatten(0, 1).tolist()}
    assert len(seen) > 8


@torch.inference_mode()
def test_steps_score_what_the_whole_text_scores() -> None:
    ours = QFormer.from_original(lavis_state(retrieval()), SETTINGS)
    pixels, ids, mask = inputs(2, 9, padded=False)
    embeds = ours.encode_image(pixels)
    whole = ours.lm_logits(ids, mask, embeds)
    decoder = QFormerDecoder(ours)
    scores, cache = decoder.start(embeds, ours.begun(ids[:, :2]), 1, 12)
    close(scores, whole[:, 1])
    for t in range(2, 9):
        close(decoder.step(ids[:, t], cache), whole[:, t])


@torch.inference_mode()
def test_the_way_out_gives_lavis_names_back() -> None:
    state = lavis_state(retrieval())
    ours = QFormer.from_original(state, SETTINGS)
    out = to_original(ours)
    state.pop("Qformer.bert.embeddings.position_ids")
    assert set(out) == set(state)
    state["Qformer.cls.predictions.bias"] = state["Qformer.cls.predictions.decoder.bias"]
    assert all(torch.equal(out[name], state[name]) for name in state)
    again = QFormer.from_original(out, ours.config)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


@torch.inference_mode()
def test_frozen_weights_may_be_missing_and_other_sizes_are_interpolated() -> None:
    state = lavis_state(retrieval())
    bare = {name: x for name, x in state.items() if not name.startswith("visual_encoder.")}
    ours = QFormer.from_original(bare, {"num_attention_heads": 4, "cls_token_id": CLS, "sep_token_id": SEP})
    whole = QFormer.from_original(state, SETTINGS)
    pixels = inputs(2, 5)[0]
    assert whole.vision is not None
    assert torch.equal(ours.encode_image(whole.vision(pixels)), whole.encode_image(pixels))
    with pytest.raises(CheckpointError, match="expected an image encoder to take pixels"):
        ours.encode_image(pixels)
    larger = QFormer.from_original(state, SETTINGS | {"image_size": 48})
    assert larger.config.image.size == 48
    for size in (16, 48):
        other = torch.randn(2, 3, size, size)
        assert whole.query_outputs(whole.encode_image(other)).shape == (2, QUERIES, WIDTH)
        if size == 48:
            close(larger.encode_image(other), whole.encode_image(other))


def test_errors_list_what_does_not_fit() -> None:
    state = lavis_state(retrieval())
    del state["itm_head.bias"]
    state["Qformer.bert.pooler.dense.weight"] = torch.zeros(2, 2)
    state["text_proj.weight"] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError) as caught:
        QFormer.from_original(state, SETTINGS)
    told = str(caught.value)
    assert "missing itm_head.bias" in told
    assert "unexpected Qformer.bert.pooler.dense.weight [2, 2]" in told
    assert "misshapen text_proj.weight: expected [12, 32], found [3, 3]" in told
    with pytest.raises(CheckpointError, match=r"heads of text"):
        QFormer.from_original(lavis_state(retrieval()), {"image": {"heads": 2}})
    with pytest.raises(ConfigError, match="nonsense"):
        QFormer.from_original(lavis_state(retrieval()), SETTINGS | {"nonsense": 1})
    with pytest.raises(CheckpointError, match="BLIP-2 Q-Former"):
        QFormer.from_original({"a": torch.zeros(1)})
