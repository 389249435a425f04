"""What holds while a network learns, and is put back afterwards: threads, order of sums, chance, training mode.

Knows nothing of batches or losses.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from capfilt.config.train import OptimConfig
from capfilt.training.activations import checkpointed


@contextmanager
def conditions(module: nn.Module, config: OptimConfig, seed: int, device: str) -> Iterator[None]:
    """`seed`: of torch's global generators (dropout)."""
    with (
        _threads(config.threads),
        _deterministic(device),
        _seeded(seed, device),
        _training_mode(module),
        checkpointed(module, config.checkpoint_activations),
    ):
        yield


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """On the CPU, sums in a fixed order: by default two threads add up the gradient of an indexed tensor as they come.

    On a GPU the promise is weaker and the price higher: left as it is.
    """
    settings: Any = torch.utils.deterministic  # torch's stubs leave its one attribute out
    before, fills = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    if torch.device(device).type == "cpu":
        torch.use_deterministic_algorithms(True)
        settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fills


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _training_mode(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.train()
    try:
        yield
    finally:
        module.train(was_training)
