from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from capfilt.config.architectures.coca import (
    CocaArchitecture,
    CocaConvNetConfig,
    CocaMultimodalConfig,
    CocaPoolerConfig,
    CocaTextConfig,
    CocaVitConfig,
)
from capfilt.config.decoding import Beam, Greedy, Nucleus
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.batch import Batch
from capfilt.modeling.coca import LOSS_WEIGHTS, CoCa
from capfilt.modeling.coca.checkpoint import to_original
from capfilt.modeling.coca.image import AttentionalPooler
from capfilt.modeling.coca.training import CocaTraining
from capfilt.modeling.weights import own_tensors

MODELS = Path(__file__).parents[3] / "models"
MILLIONS = {"coca_tiny": (0.9, 1.2), "coca_vit_b32": (253, 254), "coca_vit_l14": (638, 639), "coca_base": (388, 390)}
VIT = CocaVitConfig(kind="vit", size=16, patch=4, width=16, layers=2, heads=2, stem="conv", positions="sincos2d")
PATCHES = CocaVitConfig(kind="vit", size=16, patch=4, width=16, layers=2, heads=2)
CONVNET = CocaConvNetConfig(kind="convnet", size=16, patch=4, width=16, layers=2, kernel=3)
LAYOUTS = ["joint", "parallel", "cascade"]


def architecture(image: CocaVitConfig | CocaConvNetConfig = VIT, layout: str = "cascade", **text: object) -> CocaArchitecture:
    return CocaArchitecture(
        kind="coca",
        image=image,
        pooler=CocaPoolerConfig.model_validate({"layout": layout, "queries": 5, "width": 24, "heads": 2}),
        text=CocaTextConfig.model_validate(
            {
                "vocabulary": "trained", "vocab_size": 40, "width": 16, "layers": 2, "heads": 2, "intermediate": 32,
                "max_positions": 16, "cls_id": 2, "sep_id": 3,
            } | text
        ),
        multimodal=CocaMultimodalConfig(layers=2, heads=2, intermediate=32),
        embed_dim=8,
        max_text_length=12,
        init_std=0.2,
    )  # fmt: skip


def build(config: CocaArchitecture, seed: int = 0) -> CoCa:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CoCa(config)


@pytest.fixture
def coca() -> CoCa:
    return build(architecture())


@pytest.mark.parametrize("path", sorted(MODELS.glob("coca_*.yaml")), ids=lambda path: path.stem)
def test_every_architecture_has_the_size_its_file_promises(path: Path) -> None:
    with torch.device("meta"):
        model = CoCa(CocaArchitecture.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))))
    low, high = MILLIONS[path.stem]
    assert low < sum(p.numel() for p in model.parameters()) / 1e6 < high


def test_the_base_model_has_the_parts_of_table_1() -> None:
    with torch.device("meta"):
        model = CoCa(CocaArchitecture.model_validate(yaml.safe_load((MODELS / "coca_base.yaml").read_text(encoding="utf-8"))))
    millions = {name: round(sum(p.numel() for p in part.parameters()) / 1e6) for name, part in model.named_children()}
    assert millions["vision"] == 86
    assert millions["text"] + millions["decoder"] == 297


@pytest.mark.parametrize("image", [VIT, CONVNET], ids=["vit", "convnet"])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_shapes_and_norms(image: CocaVitConfig | CocaConvNetConfig, layout: str, make_batch: Callable[..., Batch]) -> None:
    model = build(architecture(image, layout)).eval()
    batch = make_batch()
    tokens = model.image_tokens(batch.pixels_BCHW)
    assert tokens.shape == (5, 17 if image is VIT else 16, 16)
    pooled = model.encode_image(batch.pixels_BCHW)
    assert torch.equal(pooled, model.pool(tokens))
    assert pooled.shape == (5, 5 if layout == "joint" else 6, 24)
    assert model.caption_queries(pooled).shape[1] == pooled.shape[1] - 1
    for features in (model.image_features(pooled), model.text_features(batch.ids_BT, batch.mask_BT)):
        assert features.shape == (5, 8)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    assert model.joint_features(batch.ids_BT, batch.mask_BT, pooled).shape == (5, 8, 16)
    assert model.lm_logits(batch.ids_BT, batch.mask_BT, pooled).shape == (5, 8, 40)


@torch.inference_mode()
def test_the_contrastive_pooler_sees_what_its_layout_says(make_batch: Callable[..., Batch]) -> None:
    pixels = make_batch().pixels_BCHW
    for layout, follows in (("parallel", False), ("cascade", True)):
        model = build(architecture(layout=layout)).eval()
        before = model.encode_image(pixels)
        model.poolers.captioning.query += torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
        after = model.encode_image(pixels)
        assert not torch.allclose(before[:, 1:], after[:, 1:])
        assert torch.allclose(before[:, 0], after[:, 0]) != follows


@torch.inference_mode()
def test_another_image_size_gives_other_tokens_and_as_many_queries() -> None:
    for image in (VIT, CONVNET):
        model = build(architecture(image)).eval()
        tokens = model.image_tokens(torch.zeros(2, 3, 24, 24))
        assert tokens.shape[1] == 36 + (image is VIT)
        assert model.pool(tokens).shape == (2, 6, 24)


@torch.inference_mode()
def test_padding_changes_neither_features_nor_scores(coca: CoCa, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    wide, mask = (torch.nn.functional.pad(x, (0, 6)) for x in (batch.ids_BT, batch.mask_BT))
    pooled = coca.encode_image(batch.pixels_BCHW)
    kwargs = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(coca.text_features(wide, mask), coca.text_features(batch.ids_BT, batch.mask_BT), **kwargs)
    logits = coca.lm_logits(batch.ids_BT, batch.mask_BT, pooled)
    wider = coca.lm_logits(wide, mask, pooled)[:, :8]
    kept = batch.mask_BT.bool()
    torch.testing.assert_close(wider[kept], logits[kept], **kwargs)


@torch.inference_mode()
def test_the_released_mask_shows_cls_one_padding_token_and_hides_itself(make_batch: Callable[..., Batch]) -> None:
    released = build(architecture(cls_mask="released", cls_position="padded"))
    corrected = build(architecture(cls_mask="corrected", cls_position="padded"))
    corrected.load_state_dict(released.state_dict())
    ids = torch.tensor([[2, 7, 8, 3, 0, 0, 0]])
    seen = {"released": [1, 1, 1, 1, 1, 0, 0, 0], "corrected": [1, 1, 1, 1, 0, 0, 0, 1]}
    for model in (released, corrected):
        assert model.text.visible((ids != 0).long()).tolist() == [seen[model.config.text.cls_mask]]
    mask = (ids != 0).long()
    first_padding, second_padding = ids.clone(), ids.clone()
    first_padding[0, 4], second_padding[0, 5] = 9, 9
    for model, changes in ((released, True), (corrected, False)):
        plain = model.text_features(ids, mask)
        assert torch.allclose(plain, model.text_features(first_padding, mask)) != changes
        assert torch.allclose(plain, model.text_features(second_padding, mask))


@torch.inference_mode()
def test_no_token_sees_a_later_one_or_cls_and_the_unimodal_half_no_image(coca: CoCa, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    pooled = coca.encode_image(batch.pixels_BCHW)
    full = torch.ones_like(batch.mask_BT)
    before = coca.lm_logits(batch.ids_BT, full, pooled), coca.text_features(batch.ids_BT, full)
    changed = batch.ids_BT.clone()
    changed[:, 5:] = 11
    after = coca.lm_logits(changed, full, pooled)
    torch.testing.assert_close(before[0][:, :5], after[:, :5])
    assert not torch.allclose(before[0][:, 5:], after[:, 5:])
    coca.text.cls += 1
    torch.testing.assert_close(coca.lm_logits(batch.ids_BT, full, pooled), before[0])
    assert not torch.allclose(coca.text_features(batch.ids_BT, full), before[1])


@torch.inference_mode()
def test_texts_of_one_image_share_its_encoding(coca: CoCa, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(pairs=6)
    pooled = coca.encode_image(batch.pixels_BCHW[:2])
    shared = coca.lm_logits(batch.ids_BT, batch.mask_BT, pooled)
    repeated = coca.lm_logits(batch.ids_BT, batch.mask_BT, pooled.repeat_interleave(3, 0))
    torch.testing.assert_close(shared, repeated, atol=1e-5, rtol=1e-5)


def test_both_losses_come_from_one_pass_over_image_and_text(coca: CoCa, make_batch: Callable[..., Batch]) -> None:
    calls: list[str] = []
    for name in ("vision", "poolers", "text", "decoder"):
        getattr(coca, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    found = coca.losses(make_batch())
    assert set(found) == set(LOSS_WEIGHTS) == {"itc", "lm"}
    assert sorted(calls) == ["decoder", "poolers", "text", "vision"]
    calls.clear()
    assert set(coca.losses(make_batch(), names=["itc"])) == {"itc"}
    assert "decoder" not in calls


def test_a_prompt_is_seen_but_not_learnt_and_padding_is_no_target(coca: CoCa, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    logits = coca.lm_logits(batch.ids_BT, batch.mask_BT, batch.pixels_BCHW)
    for prompt in (0, 4):
        log_p = logits[:, :-1].log_softmax(-1).gather(2, batch.ids_BT[:, 1:, None])[:, :, 0]
        kept = batch.mask_BT[:, 1:].bool() & (torch.arange(1, 8) >= prompt)
        found = coca.losses(batch, names=["lm"], prompt_length=prompt)["lm"]
        torch.testing.assert_close(found, -log_p[kept].mean(), atol=1e-5, rtol=1e-5)


def test_texts_of_one_image_are_positives_only_where_asked(coca: CoCa, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(pairs=4)
    twice = Batch(batch.pixels_BCHW[[0, 0, 1, 2]], batch.ids_BT, batch.mask_BT, torch.tensor([7, 7, 8, 9]))
    with torch.no_grad():
        sims = coca.image_features(twice.pixels_BCHW) @ coca.text_features(twice.ids_BT, twice.mask_BT).T / 0.07
        targets = torch.eye(4)
        targets[:2, :2] = 0.5
        for positives, wanted in (("pair", torch.eye(4)), ("image", targets)):
            expected = -((wanted * sims.log_softmax(1)).sum(1).mean() + (wanted * sims.T.log_softmax(1)).sum(1).mean()) / 2
            found = coca.losses(twice, names=["itc"], positives=positives)["itc"]
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@torch.inference_mode()
def test_a_video_is_the_mean_of_its_frames_or_all_their_tokens(coca: CoCa) -> None:
    coca.eval()
    frames = torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    features = coca.video_features(frames)
    mean = torch.stack([coca.image_features(frames[i]).mean(0) for i in range(2)])
    torch.testing.assert_close(features, mean / mean.norm(dim=1, keepdim=True))
    tokens = coca.video_tokens(frames)
    assert tokens.shape == (2, 16 * 17, 16)
    torch.testing.assert_close(tokens[1, 17:34], coca.image_tokens(frames[1, 1:2])[0])
    pooler = AttentionalPooler(16, 24, 2, queries=1)
    assert pooler(tokens).shape == (2, 1, 24)


def test_a_new_pooler_classifies_frozen_tokens_and_joint_outputs(make_batch: Callable[..., Batch]) -> None:
    coca = build(architecture(PATCHES)).eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in coca.state_dict().items()}
    batch, labels = make_batch(pairs=8), torch.arange(8) % 2
    inputs = {
        "frozen features": (coca.image_tokens(batch.pixels_BCHW), None),
        "joint": (coca.joint_features(batch.ids_BT, batch.mask_BT, batch.pixels_BCHW), batch.mask_BT),
    }
    for tokens, mask in inputs.values():
        torch.manual_seed(0)
        pooler, head = AttentionalPooler(16, 16, 2, queries=1), nn.Linear(16, 2)
        optimiser = torch.optim.AdamW([*pooler.parameters(), *head.parameters()], lr=2e-2)
        for _ in range(60):
            loss = nn.functional.cross_entropy(head(pooler(tokens, mask)[:, 0]), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert loss < 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in coca.state_dict().items())


@torch.inference_mode()
def test_a_pooler_does_not_see_masked_tokens() -> None:
    pooler = AttentionalPooler(8, 8, 2, queries=1)
    tokens = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = pooler(tokens, mask)
    torch.testing.assert_close(found[:1], pooler(tokens[:1, :3]))
    torch.testing.assert_close(found[1:], pooler(tokens[1:]))


@pytest.mark.parametrize("mask", ["corrected", "released"])
@torch.inference_mode()
def test_log_prob_is_that_of_the_text_under_the_plain_network(mask: str) -> None:
    model = build(architecture(cls_mask=mask), seed=4).eval()
    pooled = model.encode_image(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    choices = [
        Greedy(max_length=10, min_length=6, repetition_penalty=1.5),
        Beam(max_length=10, min_length=6, repetition_penalty=1.5),
        Nucleus(max_length=10, min_length=6, temperature=0.7, top_p=0.5),
    ]
    for decoding in choices:
        found = model.generate(pooled, torch.tensor([2, 7, 3]), decoding, seeds=[[1], [2], [3]])
        ids = found.ids_BnL[:, 0]
        assert (ids[:, 1] == 7).all()
        log_p = model.lm_logits(ids, None, pooled).log_softmax(-1)
        own = log_p[:, :-1].gather(2, ids[:, 1:, None])[:, :, 0]
        ended = (ids == 3).cumsum(1) - (ids == 3).int() > 0
        expected = own.masked_fill(ended[:, 1:], 0.0)[:, 1:].sum(1)
        torch.testing.assert_close(found.log_prob_Bn[:, 0], expected, atol=1e-4, rtol=1e-5)


@torch.inference_mode()
def test_captions_of_a_shrinking_batch_equal_those_alone(coca: CoCa) -> None:
    coca.eval()
    pixels = torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    # Hot, so that texts end at many lengths and the batch shrinks.
    decoding, seeds = Nucleus(max_length=14, min_length=0, temperature=3.0, top_p=1.0), [[k, k + 100] for k in range(32)]
    together = coca.generate(pixels, torch.tensor([2]), decoding, seeds=seeds)
    lengths = {int((row == 3).int().argmax()) for row in together.ids_BnL.flatten(0, 1)}
    assert len(lengths) > 3
    for i in (0, 13, 31):
        alone = coca.generate(pixels[i : i + 1], torch.tensor([2]), decoding, seeds=seeds[i : i + 1])
        assert torch.equal(alone.ids_BnL[0], together.ids_BnL[i])
    from_queries = coca.generate(coca.encode_image(pixels), torch.tensor([2]), decoding, seeds=seeds)
    assert torch.equal(from_queries.ids_BnL, together.ids_BnL)


def steps(task: CocaTraining, batch: Batch, count: int, lr: float) -> dict[str, float]:
    optimiser = torch.optim.AdamW(task.parameters(), lr=lr)
    for _ in range(count):
        found = task.losses(batch)
        optimiser.zero_grad()
        sum((LOSS_WEIGHTS[name] * loss for name, loss in found.items()), torch.zeros(())).backward()
        optimiser.step()
    return {name: float(loss.detach()) for name, loss in found.items()}


def eight_pairs() -> Batch:
    """Eight pictures, eight texts of different lengths: half alt-texts, half labels as texts ("w5 the <label>")."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.zeros(8, 8, dtype=torch.int64)
    for row in range(8):
        words = torch.randint(8, 38, (row % 4 + 2,), generator=generator)
        text = torch.tensor([2, *words.tolist(), 3]) if row < 4 else torch.tensor([2, 5, 6, 7, 20 + row, 3])
        ids[row, : len(text)] = text
    return Batch(torch.randn(8, 3, 16, 16, generator=generator), ids, (ids != 0).long(), torch.arange(8))


@pytest.mark.parametrize(
    ("image", "layout"), [(PATCHES, "cascade"), (VIT, "joint"), (CONVNET, "parallel")], ids=["patches", "conv", "convnet"]
)
def test_eight_pairs_are_learnt_by_heart(image: CocaVitConfig | CocaConvNetConfig, layout: str) -> None:
    model = build(architecture(image, layout)).train()
    batch = eight_pairs()
    task = CocaTraining(model)
    task.set_progress(0, 10)
    first = steps(task, batch, 1, 0.0)
    last = steps(task, batch, 120, 4e-3)
    assert last["itc"] < 0.1 < first["itc"]
    assert last["lm"] < 0.1 < first["lm"]
    model.eval()
    with torch.inference_mode():
        pooled = model.encode_image(batch.pixels_BCHW)
        cosine = model.image_features(pooled) @ model.text_features(batch.ids_BT, batch.mask_BT).T
        assert torch.equal(cosine.argmax(1), torch.arange(8))
        for decoding in (Greedy(max_length=8, min_length=0), Beam(max_length=8, min_length=0)):
            assert torch.equal(model.generate(pooled, torch.tensor([2]), decoding).ids_BnL[:, 0], batch.ids_BT)


def reached(model: CoCa, task: CocaTraining, batch: Batch) -> set[str]:
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    steps(task, batch, 1, 1e-2)
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_loss_moves_its_own_parts_and_no_other(layout: str) -> None:
    names = {name for name, _ in build(architecture(layout=layout)).named_parameters()}
    contrastive = {
        name
        for name in names
        if name.startswith(("poolers.contrastive", "poolers.norm_contrastive", "image_projection", "text_projection"))
        or name in ("logit_scale", "text.cls", "text.norm.weight", "text.norm.bias")
    }
    captioning = {name for name in names if name.startswith("decoder.")}
    if layout == "parallel":
        captioning |= {name for name in names if name.startswith(("poolers.captioning", "poolers.norm_captioning"))}
    for asked, expected in ((("itc", "lm"), names), (("itc",), names - captioning), (("lm",), names - contrastive)):
        model = build(architecture(layout=layout))
        assert reached(model, CocaTraining(model, losses=asked), eight_pairs()) == expected


def test_frozen_parts_stay_as_they_are_and_out_of_the_optimiser() -> None:
    model = build(architecture())
    model.vision.requires_grad_(False)
    task = CocaTraining(model)
    moved = reached(model, task, eight_pairs())
    assert moved == {name for name, _ in model.named_parameters() if not name.startswith("vision.")}


def test_the_temperature_stays_in_its_bounds() -> None:
    model = build(architecture())
    task = CocaTraining(model)
    for outside, inside in ((9.0, 4.6052), (-3.0, 0.0)):
        with torch.no_grad():
            model.logit_scale.fill_(outside)
        task.losses(eight_pairs())
        assert float(model.logit_scale.detach()) == pytest.approx(inside, abs=1e-4)


def test_a_released_cls_is_learnt_at_the_place_where_a_filter_reads_it() -> None:
    model = build(architecture(cls_position="padded"))
    batch = eight_pairs()
    room = 16 - batch.ids_BT.shape[1]
    assert room > 0
    wide = replace(batch, ids_BT=F.pad(batch.ids_BT, (0, room)), mask_BT=F.pad(batch.mask_BT, (0, room)))
    found, expected = CocaTraining(model).losses(batch), model.losses(wide)
    assert {name: float(loss.detach()) for name, loss in found.items()} == pytest.approx(
        {name: float(loss.detach()) for name, loss in expected.items()}, abs=1e-6
    )
    assert float(found["itc"].detach()) != pytest.approx(float(model.losses(batch)["itc"].detach()), abs=1e-6)


def test_an_unknown_loss_is_refused_with_the_choices(coca: CoCa) -> None:
    with pytest.raises(ConfigError, match=r"itc, lm.*'itm'"):
        CocaTraining(coca, losses=["itm"])


def test_our_own_layout_is_not_written_as_open_clips(coca: CoCa) -> None:
    with pytest.raises(CheckpointError, match="open_clip's layout"):
        to_original(coca)


def test_every_tensor_is_written_once_and_depends_on_the_seed_alone(coca: CoCa) -> None:
    same: dict[str, Tensor] = own_tensors(build(architecture()))
    assert all(torch.equal(tensor, same[name]) for name, tensor in own_tensors(coca).items())
    assert set(same) == set(coca.state_dict())


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("image", {"style": "clip"}, "style: clip"),
        ("pooler", {"heads": 5}, "multiple of heads"),
        ("pooler", {"layout": "joint", "queries": 1}, "at least 2 queries"),
        ("pooler", {"layout": "joint", "norm": "before"}, "norm: after"),
        ("text", {"vocabulary": "clip"}, "cls_id 99"),
        ("multimodal", {"heads": 3}, "multimodal.heads"),
        ("image", {"kind": "convnet", "patch": 3}, "multiple of patch"),
    ],
)
def test_an_architecture_that_cannot_be_is_refused(section: str, change: dict[str, object], message: str) -> None:
    content = architecture(cls_id=99).model_dump()
    content[section] |= change
    if change.get("kind") == "convnet":
        content[section] = {key: content[section][key] for key in ("kind", "size", "patch", "width", "layers")}
    with pytest.raises(ValueError, match=message):
        CocaArchitecture.model_validate(content)
