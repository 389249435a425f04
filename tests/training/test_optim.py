from itertools import pairwise

import pytest
import torch
from torch import nn

from capfilt.config.train import Exponential, Losses, OptimConfig
from capfilt.training.optim import build_optimiser, learning_rate


def config(**changes) -> OptimConfig:
    return OptimConfig(**{"losses": Losses(lm=1), "steps": 100, "batch_size": 4, "lr": 1.0, "warmup_steps": 10, **changes})


def test_the_rate_climbs_to_its_top_and_falls_to_nothing():
    rates = [learning_rate(step, config(), 10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001
    assert learning_rate(100, config(), 10) == pytest.approx(0, abs=1e-12)


def test_the_exponential_schedule_falls_per_epoch_to_its_floor():
    asked = config(warmup_steps=0, schedule=Exponential(kind="exponential", decay_per_epoch=0.5, min_lr=0.2))
    assert [learning_rate(step, asked, 10) for step in (0, 9, 10, 25, 99)] == [1.0, 1.0, 0.5, 0.25, 0.2]


def test_a_warm_up_longer_than_the_training_is_only_a_warm_up():
    asked = config(steps=5, warmup_steps=10)
    assert [learning_rate(step, asked, 1) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_what_does_not_learn_is_left_out_and_all_else_decays():
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    optimiser = build_optimiser(layer.parameters(), config(weight_decay=0.5, betas=(0.8, 0.9)))
    (group,) = optimiser.param_groups
    assert group["params"][0] is layer.weight
    assert len(group["params"]) == 1
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimiser.step()
    assert torch.allclose(layer.weight, before * 0.5)
    assert group["betas"] == (0.8, 0.9)
