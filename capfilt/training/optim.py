"""The optimiser and its learning rate.

Knows nothing of what is optimised.
"""

from collections.abc import Iterable
from math import cos, pi
from typing import assert_never

import torch
from torch import nn

from capfilt.config.train import Cosine, Exponential, OptimConfig


def build_optimiser(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all parameters that learn; as in BLIP's code, biases, norms and the temperature decay like the rest.

    One fused kernel per step on CPU and GPU alike.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.AdamW(learning, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def learning_rate(step: int, config: OptimConfig, steps_per_epoch: int) -> float:
    """Rate of step 0, 1, 2 …: linear from lr / warmup_steps to lr, then the schedule.

    Cosine reaches 0 after the last step; exponential falls once per epoch, counted from step 0 as in BLIP.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    match config.schedule:
        case Cosine():
            done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
            return config.lr * 0.5 * (1 + cos(pi * min(1.0, done)))
        case Exponential(decay_per_epoch=decay, min_lr=floor):
            return max(floor, config.lr * decay ** (step // max(1, steps_per_epoch)))
        case _:
            assert_never(config.schedule)
