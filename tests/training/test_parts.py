"""Batches that are computed in parts, and blocks whose activations are computed twice."""

import copy
import json

import pytest
import torch
from torch import nn

from capfilt.config.architectures import load_architecture
from capfilt.config.train import Losses, OptimConfig
from capfilt.errors import ConfigError
from capfilt.modeling.build import build
from capfilt.modeling.med.training import MedCaptionerFinetuning, MedPretraining
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.training.activations import checkpointed
from capfilt.training.batches import Batches
from capfilt.training.data import read_pairs
from capfilt.training.loop import train


@pytest.fixture
def setting(tmp_path, pool_file, architecture_file):
    """A network with a patch stem and no dropout, and batches of six pairs with texts of different lengths."""
    text = architecture_file.read_text().replace("stem: conv", "stem: patch").replace("dropout: 0.1", "dropout: 0.0")
    architecture_file.write_text(text)
    pairs = read_pairs([pool_file], "pool", 16, spool=tmp_path / "s")
    pairs.texts[::2] = ["red"] * len(pairs.texts[::2])
    tokenizer = Tokenizer.train(pairs.texts, 80)
    architecture = load_architecture(architecture_file)
    fields = architecture.model_dump()
    fields["text"] |= {"vocab_size": len(tokenizer)}
    architecture = type(architecture).model_validate(fields)
    return build(architecture, seed=1), Batches([(pairs, 6)], tokenizer, architecture, seed=2)


def asked(**changes) -> OptimConfig:
    values = {"losses": Losses(lm=1), "steps": 3, "batch_size": 6, "lr": 1e-2, "threads": 1, "betas": (0.5, 0.5)}
    return OptimConfig(**{**values, **changes})


def test_parts_of_a_batch_are_its_rows_in_turn(setting):
    _, batches = setting
    whole = batches(4)
    for part in range(3):
        mine = batches.part(4, part, 3)
        assert torch.equal(mine.pixels_BCHW, whole.pixels_BCHW[part::3])
        assert torch.equal(mine.image_ids_B, whole.image_ids_B[part::3])
        width = mine.ids_BT.shape[1]
        assert torch.equal(mine.ids_BT, whole.ids_BT[part::3, :width])
        assert not whole.mask_BT[part::3, width:].any()


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_lm_learns_the_same_in_parts_as_from_the_whole_batch(setting, tmp_path, parts):
    """Plain steps by the gradient: Adam would make a step of what rounding leaves of a gradient that is 0."""
    model, batches = setting
    found = []
    for count in (1, parts):
        module = MedCaptionerFinetuning(copy.deepcopy(model), prompt_length=1)

        def plain(parameters, config):
            return torch.optim.SGD(parameters, lr=config.lr)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("capfilt.training.loop.build_optimiser", plain)
            train(module, batches, asked(accumulate_steps=count), work=tmp_path / str(count), seed=1)
        log = json.loads((tmp_path / str(count) / "log.jsonl").read_text())
        found.append((module.state_dict(), log["lm"]))
    assert found[0][1] == pytest.approx(found[1][1], abs=1e-6)
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, atol=1e-6, rtol=0, msg=name)
    assert not torch.equal(found[0][0]["model.vision.cls"], model.state_dict()["vision.cls"])


def test_in_parts_the_momentum_copy_moves_once_and_the_queue_by_the_whole_batch(setting, tmp_path):
    model, batches = setting
    module = MedPretraining(copy.deepcopy(model), seed=3)
    before = module.momentum.image_projection.weight.clone()
    train(
        module,
        batches,
        asked(losses=Losses(itc=1, itm=1, lm=1), steps=1, accumulate_steps=3, lr=1e-9),
        work=tmp_path,
        seed=1,
    )
    assert int(module.queue.write_at) == 6
    # At the first step the copy equals the model, so that a single move leaves it where it is but for rounding.
    torch.testing.assert_close(module.momentum.image_projection.weight, before)
    whole = batches(0).image_ids_B
    assert torch.equal(module.queue.image_ids_Q[:6], torch.cat([whole[part::3] for part in range(3)]))


def test_a_network_that_cannot_learn_in_parts_is_told_so(setting, tmp_path):
    class Plain(nn.Linear):
        def set_progress(self, step, steps_per_ramp): ...
        def losses(self, batch):
            raise AssertionError

    with pytest.raises(ConfigError, match=r"accumulate_steps 2, workers 1: expected 1 of each for Plain"):
        train(Plain(1, 1), setting[1], asked(accumulate_steps=2), work=tmp_path, seed=1)


def test_checkpointed_activations_give_the_same_gradients(setting, architecture_file):
    model, batches = setting
    model.config = model.config.model_copy()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.3
    found = []
    for wanted in (False, True):
        module = MedPretraining(copy.deepcopy(model), seed=3).train()
        kept = 0

        def count(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        torch.manual_seed(7)
        with checkpointed(module, wanted), torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            sum(module.losses(batches(0)).values()).backward()
        names = set(module.state_dict())
        found.append(({name: p.grad for name, p in module.named_parameters() if p.grad is not None}, kept, names))
        assert not any("forward" in vars(part) for part in module.modules())
    assert found[0][0].keys() == found[1][0].keys()
    assert all(torch.equal(found[0][0][name], found[1][0][name]) for name in found[0][0])
    assert found[1][1] < found[0][1]
    assert found[0][2] == found[1][2]


def test_the_setting_reaches_the_loop(setting, tmp_path, monkeypatch):
    model, batches = setting
    seen = []
    real = checkpointed

    def watched(module, wanted):
        seen.append(wanted)
        return real(module, wanted)

    monkeypatch.setattr("capfilt.training.conditions.checkpointed", watched)
    for wanted in (True, False):
        train(
            MedCaptionerFinetuning(model),
            batches,
            asked(steps=1, checkpoint_activations=wanted),
            work=tmp_path / str(wanted),
            seed=1,
        )
    assert seen == [True, False]
