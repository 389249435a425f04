import copy
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from capfilt.config.architectures.soho import SohoArchitecture
from capfilt.config.train import ItmNegatives, Matching
from capfilt.errors import ConfigError
from capfilt.modeling.batch import Batch
from capfilt.modeling.losses import IGNORED
from capfilt.modeling.soho import SOHO
from capfilt.modeling.soho.negatives import negative_texts
from capfilt.modeling.soho.training import Choices, SohoPretraining, draw_choices, mask_words, specials

MODELS = Path(__file__).parents[3] / "models"
Make = Callable[..., Batch]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def architecture(**changes: object) -> SohoArchitecture:
    fields = {
        "kind": "soho",
        "image": {"size": 16, "stem": "small", "width": 8, "blocks": [1, 1]},
        "dictionary": {"codes": 6},
        "text": {
            "vocabulary": "trained", "vocab_size": 40, "width": 16, "layers": 2, "heads": 2, "intermediate": 32,
            "max_positions": 24, "cls_id": 2, "sep_id": 3, "mask_id": 4,
        },
        "mvm_probability": 1.0,
        "max_text_length": 12,
        "init_std": 0.2,
    }  # fmt: skip
    return SohoArchitecture.model_validate(fields | changes)


def make_model(seed: int = 0, **changes: object) -> SOHO:
    torch.manual_seed(seed)
    return SOHO(architecture(**changes))


@pytest.fixture
def model() -> SOHO:
    return make_model().eval()


def train(task: SohoPretraining, optimiser: torch.optim.Optimizer, batch: Batch) -> None:
    optimiser.zero_grad(set_to_none=True)
    sum(task.losses(batch).values()).backward()
    optimiser.step()


@torch.inference_mode()
def test_texts_of_one_image_share_its_tokens_without_a_change_of_score(model: SOHO, make_batch: Make) -> None:
    batch = make_batch(pairs=6)
    embeds = model.encode_image(batch.pixels_BCHW[:2])
    assert embeds.shape == (2, 4, 16)
    grouped = model.itm_logits(batch.ids_BT, batch.mask_BT, embeds)
    indexed = model.itm_logits(batch.ids_BT, batch.mask_BT, embeds, torch.tensor([0, 0, 0, 1, 1, 1]))
    repeated = model.itm_logits(batch.ids_BT, batch.mask_BT, embeds.repeat_interleave(3, 0))
    alone = torch.cat(
        [model.itm_logits(batch.ids_BT[i : i + 1], batch.mask_BT[i : i + 1], embeds[i // 3][None]) for i in range(6)]
    )
    for other in (indexed, repeated, alone):
        torch.testing.assert_close(grouped, other, **CLOSE)


@torch.inference_mode()
def test_position_0_alone_is_position_0_of_all(model: SOHO, make_batch: Make) -> None:
    batch = make_batch()
    embeds = model.encode_image(batch.pixels_BCHW)
    states = model.states(batch.ids_BT, batch.mask_BT, embeds)
    assert states.shape == (5, 8 + 4, 16)
    torch.testing.assert_close(model.states(batch.ids_BT, batch.mask_BT, embeds, first_only=True), states[:, :1], **CLOSE)
    torch.testing.assert_close(model.itm_logits(batch.ids_BT, batch.mask_BT, embeds), model.match(states[:, 0]), **CLOSE)
    assert model.mlm_logits(batch.ids_BT, batch.mask_BT, embeds).shape == (5, 8, 40)
    assert model.mvm_logits(batch.ids_BT, batch.mask_BT, embeds).shape == (5, 4, 6)


@torch.inference_mode()
def test_padding_of_texts_and_pictures_changes_no_score(model: SOHO, make_batch: Make) -> None:
    batch = make_batch()
    embeds = model.encode_image(batch.pixels_BCHW)
    expected = model.itm_logits(batch.ids_BT, batch.mask_BT, embeds)
    wide, mask = (torch.nn.functional.pad(x, (0, 6)) for x in (batch.ids_BT, batch.mask_BT))
    torch.testing.assert_close(model.itm_logits(wide, mask, embeds), expected, **CLOSE)
    # A picture of 16 x 16 with a column of padding: same features at its own positions, same positions, padding unseen.
    features = model.visual_features(batch.pixels_BCHW)
    padded = torch.cat([features, torch.randn_like(features[..., :1])], dim=-1)
    visible = torch.ones(5, 2, 3, dtype=torch.bool)
    visible[:, :, 2] = False
    tokens = model.visual_tokens(padded, visible_BHW=visible)
    found = model.itm_logits(batch.ids_BT, batch.mask_BT, tokens, visible_BHW=visible)
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(model.image_features(padded, visible), model.image_features(features), **CLOSE)
    assert torch.allclose(model.image_features(features).norm(dim=1), torch.ones(5))


def test_pictures_of_another_size_are_read(model: SOHO) -> None:
    pixels = torch.randn(2, 3, 32, 20)
    assert model.grid(pixels) == (4, 2)
    assert model.visual_features(pixels).shape == (2, 16, 4, 2)
    visible = model.visible(pixels, torch.tensor([[32, 20], [16, 20]]))
    assert visible.tolist() == [[[True, True]] * 4, [[True, True]] * 2 + [[False, False]] * 2]


def test_the_dictionary_moves_in_training_only_and_before_the_tokens_are_made(make_batch: Make) -> None:
    batch = make_batch()
    for mode in (False, True):
        model = make_model(dictionary={"codes": 6, "update": "ema_count", "decay": 0.4, "unused": "fade"}).train(mode)
        before = model.visual.dictionary.codes_KD.clone()
        twin = copy.deepcopy(model)
        found = model.losses(batch, names=["mvm"], seed=3)["mvm"]
        assert torch.equal(model.visual.dictionary.codes_KD, before) is not mode
        # By hand: indices by the codes before; scores by those after.
        visible = twin.visible(batch.pixels_BCHW, None)
        choices = draw_choices(batch, visible, twin.config, torch.Generator().manual_seed(3), ["mvm"])
        features = twin.visual_features(batch.pixels_BCHW)
        indices = twin.dictionary_indices(features)
        if mode:
            twin.update_dictionary(features)
        code = indices.gather(1, choices.locations_B[:, None])
        masked = indices == code
        tokens = twin.visual_tokens(features, indices, masked_BN=masked)
        logits = twin.mvm_logits(batch.ids_BT, batch.mask_BT, tokens)
        expected = torch.nn.functional.cross_entropy(logits[masked], indices[masked])
        torch.testing.assert_close(found, expected, **CLOSE)


def test_losses_are_those_of_the_public_logits(model: SOHO, make_batch: Make) -> None:
    batch = make_batch()
    choices = draw_choices(
        batch, model.visible(batch.pixels_BCHW, None), model.config, torch.Generator().manual_seed(1), ["mlm", "mvm", "itm"]
    )
    found = model.losses(batch, choices=choices)
    assert set(found) == {"mlm", "mvm", "itm"}
    features = model.visual_features(batch.pixels_BCHW)
    indices = model.dictionary_indices(features)
    masked = indices == indices.gather(1, choices.locations_B[:, None])
    tokens = model.visual_tokens(features, masked_BN=masked)
    given = (choices.ids_BT, choices.mask_BT, tokens)
    expected = {
        "mlm": (model.mlm_logits(*given).flatten(0, 1), choices.words_BT.flatten()),
        "mvm": (model.mvm_logits(*given).flatten(0, 1), indices.where(masked, IGNORED).flatten()),
        "itm": (model.itm_logits(*given), choices.matches_B),
    }
    for name, (logits, labels) in expected.items():
        torch.testing.assert_close(found[name], torch.nn.functional.cross_entropy(logits, labels), **CLOSE)


def test_nothing_masked_costs_nothing(model: SOHO, make_batch: Make) -> None:
    batch = make_batch()
    none = torch.full_like(batch.ids_BT, IGNORED)
    no = torch.zeros(5, dtype=torch.bool)
    choices = Choices(batch.ids_BT, batch.mask_BT, none, torch.ones(5, dtype=torch.int64), no.long(), no)
    found = model.losses(batch, choices=choices)
    assert found["mlm"].item() == found["mvm"].item() == 0
    sum(found.values()).backward()
    assert model.itm_head.weight.grad is not None


# ── what chance decides ─────────────────────────────────────────────────────────────────────────────────────


def test_words_are_hidden_replaced_or_left_in_berts_shares() -> None:
    config = architecture()
    ids = torch.randint(5, 40, (400, 12))
    mask = torch.ones_like(ids)
    ids[:, 0], ids[:, 10], ids[:, 11], mask[:, 11] = 2, 3, 0, 0
    read, labels = mask_words(ids, mask, config, torch.Generator().manual_seed(0))
    is_asked = labels != IGNORED
    assert not is_asked[:, [0, 10, 11]].any()
    assert torch.equal(read[~is_asked], ids[~is_asked])
    assert torch.equal(labels[is_asked], ids[is_asked])
    assert abs(is_asked[:, 1:10].float().mean() - 0.15) < 0.02
    hidden = (read[is_asked] == 4).float().mean()
    left = (read[is_asked] == ids[is_asked]).float().mean()
    assert abs(hidden - 0.8) < 0.05
    assert abs(left - 0.1) < 0.04


def test_texts_are_exchanged_only_for_those_of_other_pictures(make_batch: Make) -> None:
    batch = make_batch(pairs=200)
    image_ids = torch.arange(200) % 3
    batch = Batch(batch.pixels_BCHW, batch.ids_BT, batch.mask_BT, image_ids)
    visible = torch.ones(200, 2, 2, dtype=torch.bool)
    marked = Batch(batch.pixels_BCHW, image_ids[:, None].expand(-1, 8) + 10, batch.mask_BT, image_ids)
    found = draw_choices(marked, visible, architecture(), torch.Generator().manual_seed(0), ["itm"])
    owner = found.ids_BT[:, 0] - 10
    assert torch.equal(owner == image_ids, found.matches_B == 1)
    assert 70 < int(found.matches_B.sum()) < 130
    assert not found.chosen_B.any()
    assert (found.words_BT == IGNORED).all()
    same = Batch(marked.pixels_BCHW, marked.ids_BT, marked.mask_BT, torch.zeros(200, dtype=torch.int64))
    assert draw_choices(same, visible, architecture(), torch.Generator(), ["itm"]).matches_B.all()


def test_locations_are_drawn_for_each_pair_or_once(make_batch: Make) -> None:
    batch = make_batch(pairs=100)
    visible = torch.zeros(100, 2, 2, dtype=torch.bool)
    visible[:, :, 0] = True
    given = (torch.Generator().manual_seed(0), ["mvm"])
    pair = draw_choices(batch, visible, architecture(mvm_probability=0.3), *given)
    assert set(pair.locations_B.tolist()) == {0, 2}
    assert 15 < int(pair.chosen_B.sum()) < 45
    once = draw_choices(batch, visible, architecture(mvm_draw="batch"), *given)
    assert len(set(once.locations_B.tolist())) == 1


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("update", ["ema_mean", "ema_count"])
def test_a_resumed_step_equals_the_uninterrupted_one_to_the_bit(update: str, make_batch: Make) -> None:
    changes = {"dictionary": {"codes": 6, "update": update}}
    task = SohoPretraining(make_model(**changes), seed=3).train()
    optimiser = torch.optim.AdamW(task.parameters(), lr=1e-2)
    for seed in range(3):
        train(task, optimiser, make_batch(seed=seed))
    file = io.BytesIO()
    torch.save({"task": task.state_dict(), "optimiser": optimiser.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = SohoPretraining(make_model(seed=99, **changes), seed=77).train()
    other_optimiser = torch.optim.AdamW(other.parameters(), lr=1e-2)
    other.load_state_dict(saved["task"])
    other_optimiser.load_state_dict(saved["optimiser"])
    for seed in range(3, 5):
        train(task, optimiser, make_batch(seed=seed))
        train(other, other_optimiser, make_batch(seed=seed))
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def parts(model: SOHO) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def test_the_trunk_waits_and_everything_else_learns(make_batch: Make) -> None:
    model = make_model().train()
    task = SohoPretraining(model).train()
    optimiser = torch.optim.AdamW(task.parameters(), lr=1e-2)
    for step in range(4):
        before = parts(model)
        task.set_progress(step, 2)
        train(task, optimiser, make_batch(seed=step))
        after = parts(model)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        if step < 2:
            assert not any(name.startswith("trunk.") for name in changed)
        else:
            assert {"trunk.conv1.weight", "trunk.bn1.running_mean", "trunk.layer2.0.conv1.weight"} <= changed
        assert {
            "visual.dictionary.codes_KD",
            "visual.projection.conv.weight",
            "visual.gate.conv.weight",
            "visual.mask",
        } <= changed
        assert {"visual.line_after.weight", "itm_head.weight", "transformer.layers.1.feed_forward.mlp.up.weight"} <= changed


def test_frozen_stages_stay_and_the_optimiser_does_not_know_them(make_batch: Make) -> None:
    from capfilt.config.train import Losses, OptimConfig
    from capfilt.training.optim import build_optimiser

    image = {"size": 16, "stem": "small", "width": 8, "blocks": [1, 1], "frozen_stages": 1}
    model = make_model(image=image)
    task = SohoPretraining(model).train()
    optimiser = build_optimiser(task.parameters(), OptimConfig(losses=Losses(itm=1.0), steps=2, batch_size=5, lr=1e-2))
    known = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    frozen = {name for name in dict(model.named_parameters()) if name.startswith(("trunk.conv1", "trunk.bn1", "trunk.layer1"))}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in known) != (name in frozen), name
    before = parts(model)
    for seed in range(2):
        train(task, optimiser, make_batch(seed=seed))
    for name, tensor in parts(model).items():
        if name.startswith(("trunk.conv1", "trunk.bn1", "trunk.layer1")):
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(model.trunk.state_dict()["layer2.0.conv1.weight"], before["trunk.layer2.0.conv1.weight"])


def test_matching_alone_asks_for_whole_texts_and_pictures(make_batch: Make) -> None:
    model = make_model(negative_probability=0.0).eval()
    task = SohoPretraining(model, losses=["itm"]).eval()
    batch = make_batch()
    logits = model.itm_logits(batch.ids_BT, batch.mask_BT, model.encode_image(batch.pixels_BCHW))
    expected = torch.nn.functional.cross_entropy(logits, torch.ones(5, dtype=torch.int64))
    torch.testing.assert_close(task.losses(batch), {"itm": expected}, **CLOSE)


def test_eight_pairs_are_learnt(make_batch: Make) -> None:
    """Losses fall, own texts match and others do not, and hidden words are found again."""
    model = make_model(text=dict(architecture().text.model_dump(), width=32, heads=4, intermediate=64), mvm_probability=0.15)
    task = SohoPretraining(model).train()
    task.set_progress(0, 0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = make_batch(pairs=8)
    history = []
    for _ in range(300):
        losses = task.losses(batch)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        history.append({name: float(loss.detach()) for name, loss in losses.items()})

    def mean(steps: list[dict[str, float]], name: str) -> float:
        asked = [step[name] for step in steps if step[name]]  # a step that masks no code has no loss of it
        return sum(asked) / len(asked)

    first, last = ({name: mean(steps, name) for name in steps[0]} for steps in (history[:50], history[-50:]))
    assert all(last[name] < first[name] for name in first), (first, last)
    assert last["itm"] < 0.4
    model.eval()
    with torch.inference_mode():
        embeds = model.encode_image(batch.pixels_BCHW)
        rows, images = torch.arange(8).repeat(8), torch.arange(8).repeat_interleave(8)
        match = model.itm_logits(batch.ids_BT[rows], batch.mask_BT[rows], embeds, images).softmax(1)[:, 1].view(8, 8)
        assert match.argmax(1).tolist() == list(range(8))
        hidden = batch.ids_BT.clone()
        hidden[:, 2] = 4
        found = model.mlm_logits(hidden, batch.mask_BT, embeds)[:, 2].argmax(1)
        assert int((found == batch.ids_BT[:, 2]).sum()) >= 7


def test_an_unknown_loss_is_refused_with_the_choices(model: SOHO) -> None:
    with pytest.raises(ConfigError, match=r"mlm, mvm, itm.*'lm'"):
        SohoPretraining(model, losses=["lm"])  # type: ignore[list-item]


@pytest.mark.parametrize(("name", "millions"), [("soho_tiny", 0.361), ("soho_resnet18", 57.3), ("soho_resnet101", 153.6)])
def test_the_architectures_in_models_are_what_they_say(name: str, millions: float) -> None:
    text = (MODELS / f"{name}.yaml").read_text(encoding="utf-8")
    config = SohoArchitecture.model_validate(yaml.safe_load(text))
    with torch.device("meta"):
        model = SOHO(config)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.002)
    assert f"{millions:.0f} M" in text or f"{millions:.2f} M" in text
    assert SohoArchitecture.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("negatives", ["random", "near"])
def test_pairs_exchanged_take_their_wrong_texts_as_they_are_told(make_batch: Make, negatives: ItmNegatives) -> None:
    batch, config = make_batch(pairs=6), architecture(negative_probability=1.0)
    visible = torch.ones(6, 2, 2, dtype=torch.bool)
    choices = draw_choices(batch, visible, config, torch.Generator().manual_seed(4), ["itm"], negatives)
    other = negative_texts(negatives, batch, specials(config), torch.Generator().manual_seed(4))
    assert not choices.matches_B.any()
    assert torch.equal(choices.ids_BT, other.ids_BT)


def test_a_training_exchanges_for_near_texts_where_it_is_told(make_batch: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from capfilt.modeling.soho import training

    asked: list[str] = []
    monkeypatch.setattr(training, "negative_texts", lambda kind, *rest: asked.append(kind) or negative_texts(kind, *rest))
    for matching in (None, Matching(negatives="near"), Matching(pairs="both", negatives="near")):
        SohoPretraining(make_model(), matching=matching).losses(make_batch(pairs=4))
    assert asked == ["random", "near", "near"]


@pytest.mark.parametrize("negatives", ["random", "near"])
def test_pairs_both_of_one_picture_have_own_texts_alone(make_batch: Make, negatives: ItmNegatives) -> None:
    batch = dataclasses.replace(make_batch(pairs=4), image_ids_B=torch.zeros(4, dtype=torch.int64))
    task = SohoPretraining(make_model(), losses=["itm"], matching=Matching(pairs="both", negatives=negatives)).eval()
    logits = task.model.itm_logits(batch.ids_BT, batch.mask_BT, task.model.encode_image(batch.pixels_BCHW))
    expected = torch.nn.functional.cross_entropy(logits, torch.ones(4, dtype=torch.int64))
    torch.testing.assert_close(task.losses(batch)["itm"], expected, **CLOSE)


def test_pairs_both_match_whole_texts_and_learn_words_of_own_texts_alone(make_batch: Make) -> None:
    batch = make_batch(pairs=5)
    task = SohoPretraining(make_model(), matching=Matching(pairs="both"), seed=4).eval()
    found = task.losses(batch)
    assert set(found) == {"mlm", "mvm", "itm"}
    # Again by hand: the first draws hide words and codes, the next choose texts.
    generator = torch.Generator().manual_seed(4)
    model, visible = task.model, task.model.visible(batch.pixels_BCHW, None)
    choices = draw_choices(batch, visible, model.config, generator, ["mlm", "mvm"])
    assert choices.matches_B.all()
    other = negative_texts("random", batch, specials(model.config), generator)
    by_hand = model.losses(batch, choices=choices, names=["mlm", "mvm"])
    for name in ("mlm", "mvm"):
        torch.testing.assert_close(found[name], by_hand[name])
    embeds = model.encode_image(batch.pixels_BCHW)
    own = model.itm_logits(batch.ids_BT, batch.mask_BT, embeds).log_softmax(-1)[:, 1]
    wrong = model.itm_logits(other.ids_BT, other.mask_BT, embeds).log_softmax(-1)[:, 0]
    torch.testing.assert_close(found["itm"], -torch.cat([own, wrong]).mean(), **CLOSE)


def test_pairs_both_move_the_dictionary_once_a_step(make_batch: Make) -> None:
    task = SohoPretraining(make_model(), matching=Matching(pairs="both")).train()
    task.losses(make_batch(pairs=5))
    assert task.model.visual.dictionary.uses_K.sum() == 5 * 4


def test_matching_alone_with_pairs_both_hides_nothing(make_batch: Make) -> None:
    found = SohoPretraining(make_model(), losses=["itm"], matching=Matching(pairs="both", negatives="near")).losses(
        make_batch(pairs=5)
    )
    assert set(found) == {"itm"}
