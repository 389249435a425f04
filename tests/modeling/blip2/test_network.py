"""BLIP-2's architecture, what learns and what stays frozen, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from capfilt.config.architectures.blip2 import Blip2Architecture, Blip2Image, QFormerConfig
from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import TextConfig, VisionConfig
from capfilt.config.decoding import Beam, Greedy
from capfilt.config.find import bundled
from capfilt.config.train import Losses, OptimConfig
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.batch import Batch
from capfilt.modeling.blip2 import Blip2
from capfilt.modeling.blip2.build import build_blip2, start_from
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.blip2.training import Blip2Training, QFormerTraining
from capfilt.modeling.build import build
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import load_tensors, own_tensors, save_model
from capfilt.training.optim import build_optimiser

PAIRS, LENGTH, VOCABULARY, EOS = 8, 7, 24, 3
OPTIM = OptimConfig(steps=1, lr=1e-2, batch_size=PAIRS, losses=Losses(itc=1, itm=1, lm=1))
IMAGE = {"size": 16, "patch": 4, "width": 16, "layers": 2, "heads": 2, "stem": "conv", "positions": "sincos2d"}


def architecture(**changes: Any) -> Blip2Architecture:
    text = QFormerConfig(
        vocabulary="trained", vocab_size=VOCABULARY, width=32, layers=2, heads=2, intermediate=64, max_positions=12, cls_id=2,
        sep_id=EOS, queries=4,
    )  # fmt: skip
    fields: dict[str, Any] = {"kind": "blip2", "image": Blip2Image(**IMAGE), "text": text, "embed_dim": 16, "max_text_length": 12}
    return Blip2Architecture(**fields | {"init_std": 0.1} | changes)


def pairs() -> Batch:
    """Eight pictures with texts of their own."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCABULARY - 2, (PAIRS, LENGTH), generator=generator)
    lengths = torch.tensor([7, 5, 6, 7, 4, 7, 6, 5])
    ids[:, 0] = 2
    ids[torch.arange(PAIRS), lengths - 1] = EOS
    mask = (torch.arange(LENGTH)[None] < lengths[:, None]).long()
    return Batch(torch.randn(PAIRS, 3, 16, 16, generator=generator), ids * mask, mask, torch.arange(PAIRS))


def told_apart() -> Batch:
    """The same, as features of an encoder elsewhere that tells the pictures apart."""
    batch = pairs()
    features = torch.randn(PAIRS, 9, 16, generator=torch.Generator().manual_seed(1))
    return Batch(features, batch.ids_BT, batch.mask_BT, batch.image_ids_B)


def language_model(kind: str) -> Any:
    transformers = pytest.importorskip("transformers")
    shared = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": 0, "bos_token_id": 2}
    torch.manual_seed(0)
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **shared))
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **shared, decoder_start_token_id=0))


def optimise(module: Any, parameters: Any, batch: Batch, steps: int, lr: float = 5e-3) -> dict[str, float]:
    optimiser = torch.optim.AdamW(list(parameters), lr=lr, weight_decay=0.0)
    module.train()
    for _ in range(steps):
        losses = module.losses(batch)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    module.eval()
    return {name: float(loss.detach()) for name, loss in losses.items()}


@pytest.mark.parametrize("name", ["blip2_tiny", "blip2_stage1_vit_g14", "blip2_vit_g14_opt", "blip2_vit_g14_flan_t5"])
def test_bundled_architectures_are_ones(name: str) -> None:
    content = yaml.safe_load((bundled("models") / f"{name}.yaml").read_text(encoding="utf-8"))
    found = Blip2Architecture.model_validate(content)
    assert Blip2Architecture.model_validate(found.model_dump(mode="json")) == found
    if name == "blip2_tiny":
        learning = sum(x.numel() for x in QFormer(found).parameters() if x.requires_grad)
        assert 600_000 < learning < 1_200_000
    elif name == "blip2_stage1_vit_g14":
        with torch.device("meta"):
            sizes = {n: x.numel() for n, x in QFormer(found).named_parameters()}
        frozen = sum(size for n, size in sizes.items() if n.startswith("vision."))
        assert (round(frozen / 1e6), round((sum(sizes.values()) - frozen) / 1e6)) == (986, 187)


def test_gradients_reach_what_learns_and_nothing_else() -> None:
    batch = pairs()
    model = build_blip2(architecture(), vision=build(med(), seed=3).vision)
    assert isinstance(model, QFormer)
    training = QFormerTraining(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.startswith("vision.")}
    assert any(name.endswith("running_mean") for name in before)  # the stem's batch norms could move
    optimiser = build_optimiser(training.parameters(), OPTIM)
    given = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    training.train()
    sum(training.losses(batch).values()).backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        assert (id(parameter) in given) == (parameter.grad is not None) == (not name.startswith("vision.")), name
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    assert model.vision is not None
    assert not model.vision.training


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_the_language_model_is_no_part_of_what_learns(kind: str) -> None:
    language = FrozenLanguage(language_model(kind))
    model = build_blip2(architecture(roles=(), language={"checkpoint": "unused"}), language=language)
    assert isinstance(model, Blip2)
    training = Blip2Training(model)
    before = {name: tensor.clone() for name, tensor in language.model.state_dict().items()}
    optimiser = build_optimiser(training.parameters(), OPTIM)
    training.train()
    training.losses(pairs())["lm"].backward()
    optimiser.step()
    assert all(torch.equal(language.model.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in language.model.parameters())
    assert not language.model.training
    assert not any("language" in name for name in training.state_dict())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("qformer.vision.")), name
    model.double()
    assert next(language.model.parameters()).dtype == torch.float64


def test_eight_pairs_are_learnt_by_heart() -> None:
    batch = told_apart()
    torch.manual_seed(0)
    model = build_blip2(architecture())
    assert isinstance(model, QFormer)
    training = QFormerTraining(model)
    started = {name: float(loss.detach()) for name, loss in training.losses(batch).items()}
    ended = optimise(training, (x for x in model.parameters() if x.requires_grad), batch, 100)
    assert all(ended[name] < 0.75 * started[name] for name in ("itc", "itm", "lm")), (started, ended)
    embeds = model.encode_image(batch.pixels_BCHW)
    for decoding in (Greedy(max_length=9, min_length=0), Beam(max_length=9, min_length=0)):
        made = model.generate(embeds, torch.tensor([2]), decoding).ids_BnL[:, 0, 1:LENGTH]
        assert torch.equal(made * batch.mask_BT[:, 1:], batch.ids_BT[:, 1:])
    sims = model.itc_similarities(model.image_features(embeds), model.text_features(batch.ids_BT, batch.mask_BT))
    assert torch.equal(sims.argmax(1), torch.arange(PAIRS))
    swapped = torch.arange(PAIRS).roll(1)
    matched = [
        model.itm_logits(batch.ids_BT[order], batch.mask_BT[order], embeds).softmax(1)[:, 1]
        for order in (torch.arange(PAIRS), swapped)
    ]
    assert matched[0].min() > 0.5 > matched[1].max()


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_frozen_language_model_is_led_by_the_queries(kind: str) -> None:
    batch = told_apart()
    network = language_model(kind)
    codes = torch.nn.Parameter(0.5 * torch.randn(PAIRS, 4, 32, generator=torch.Generator().manual_seed(2)))
    learner = torch.optim.AdamW([*network.parameters(), codes], lr=5e-3)
    labels = batch.ids_BT.masked_fill(batch.mask_BT == 0, -100)
    for _ in range(60):  # it writes these texts when vectors of eight kinds stand in front, but knows nothing of pictures
        embeds, given = codes, labels
        if kind == "gpt2":
            embeds = torch.cat([codes, network.get_input_embeddings()(batch.ids_BT)], 1)
            given = torch.cat([labels.new_full((PAIRS, 4), -100), labels], 1)
        loss = network(inputs_embeds=embeds, labels=given).loss
        learner.zero_grad()
        loss.backward()
        learner.step()
    torch.manual_seed(0)
    model = build_blip2(architecture(roles=(), language={"checkpoint": "unused"}), language=FrozenLanguage(network))
    assert isinstance(model, Blip2)
    training = Blip2Training(model, cut=False)
    started = float(training.losses(batch)["lm"].detach())
    ended = optimise(training, (x for x in model.parameters() if x.requires_grad), batch, 120)["lm"]
    assert ended < 0.2 * started
    # Of no prompt an encoder-decoder's encoder reads the closing token.
    prompt_P = torch.tensor([EOS] if kind == "t5" else [], dtype=torch.int64)
    made = model.generate(model.encode_image(batch.pixels_BCHW), prompt_P, Greedy(max_length=9, min_length=0))
    texts = made.ids_BnL[:, 0, model.written_from(prompt_P) :][:, :LENGTH]
    assert torch.equal(texts * batch.mask_BT, batch.ids_BT)


def test_a_pair_without_a_negative_forms_none() -> None:
    model = build_blip2(architecture())
    assert isinstance(model, QFormer)
    batch = pairs()
    one = Batch(*(x[:1] for x in (batch.pixels_BCHW, batch.ids_BT, batch.mask_BT, batch.image_ids_B)))
    assert all(torch.isfinite(loss) for loss in model.losses(one).values())


def test_a_resumed_training_draws_the_same_negatives_and_cuts() -> None:
    batch = pairs()
    network = FrozenLanguage(language_model("t5"))
    kinds = [
        lambda: QFormerTraining(build_blip2(architecture()), seed=5),  # type: ignore[arg-type]
        lambda: Blip2Training(build_blip2(architecture(roles=(), language={"checkpoint": "x"}), language=network)),  # type: ignore[arg-type]
    ]
    for make in kinds:
        first = make()
        first.losses(batch)
        kept = first.state_dict()
        expected = first.losses(batch)
        second = make()
        second.load_state_dict(kept)
        assert all(torch.equal(loss, expected[name]) for name, loss in second.losses(batch).items())


def med(**image: Any) -> MedArchitecture:
    return MedArchitecture(
        kind="med",
        image=VisionConfig(**IMAGE | image),
        text=TextConfig(
            vocabulary="trained", vocab_size=9, width=16, layers=1, heads=2, intermediate=16, max_positions=16, cls_id=2, sep_id=3
        ),
        queue_size=4,
        max_text_length=12,
    )


def test_the_image_encoder_comes_from_a_trained_med(tmp_path: Path) -> None:
    trained = build(med(), seed=7)
    save_model(tmp_path / "med", trained, med(), Tokenizer.train(["a b"], 9))
    asked = architecture(image=Blip2Image(**IMAGE, checkpoint=str(tmp_path / "med")))
    model = build_blip2(asked, seed=1)
    assert isinstance(model, QFormer)
    pixels = pairs().pixels_BCHW
    assert torch.equal(model.vision(pixels), trained.eval().vision(pixels))  # type: ignore[misc]
    assert model.config.image.checkpoint is None
    again = build_blip2(model.config, seed=9)
    load_tensors(again, own_tensors(model), "own folder")  # type: ignore[arg-type]
    assert torch.equal(again.query_outputs(again.encode_image(pixels)), model.query_outputs(model.encode_image(pixels)))
    other = build_blip2(architecture(image=Blip2Image(**IMAGE | {"size": 24})), vision=trained.vision)
    assert other.encode_image(torch.randn(1, 3, 24, 24)).shape == (1, 37, 16)
    with pytest.raises(CheckpointError, match=r"layers: expected 3, found 2"):
        build_blip2(architecture(image=Blip2Image(**IMAGE | {"layers": 3})), vision=trained.vision)


def test_stage_2_starts_from_stage_1() -> None:
    first = build_blip2(architecture(), seed=1)
    second = build_blip2(
        architecture(roles=(), language={"checkpoint": "x"}), seed=2, language=FrozenLanguage(language_model("gpt2"))
    )
    assert isinstance(first, QFormer)
    assert isinstance(second, Blip2)
    start_from(second, first)
    embeds = torch.randn(2, 17, 16)
    assert torch.equal(second.query_outputs(embeds), first.query_outputs(embeds))
    assert second.prefix_embeds(embeds).shape == (2, 4, 32)
    small = architecture(text=architecture().text.model_copy(update={"queries": 3}))
    with pytest.raises(CheckpointError, match=r"tower.queries: expected \[1, 4, 32\], found \[1, 3, 32\]"):
        start_from(second, build_blip2(small))  # type: ignore[arg-type]


def test_what_is_not_there_is_named() -> None:
    captioner = build_blip2(architecture(roles=("captioner",)))
    assert isinstance(captioner, QFormer)
    with pytest.raises(CheckpointError, match="ITC and ITM heads"):
        captioner.itm_logits(torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64), torch.randn(1, 17, 16))
    with pytest.raises(CheckpointError, match="losses, itc"):
        QFormerTraining(captioner, losses=["itc"])
    with pytest.raises(ConfigError, match="losses: expected some of"):
        QFormerTraining(captioner, losses=[])
    assert list(captioner.losses(pairs())) == ["lm"]
