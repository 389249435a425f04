"""Activation checkpointing: blocks of a network whose inside is computed again in the backward pass instead of being kept.

Knows no model: blocks are known by their class names. The gradients are the same bits; dropout draws the same numbers again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

BLOCKS = (
    "VisionBlock",
    "SelfBlock",
    "CrossBlock",
    "FeedForwardBlock",
    "SelfBranch",  # CoCa's
    "CrossBranch",
    "MlpBranch",
    "GPT2Block",  # transformers'
)
"""Without batch norm, whose running mean would move twice."""


@contextmanager
def checkpointed(module: nn.Module, wanted: bool) -> Iterator[None]:
    """While entered, and if `wanted`, the blocks keep no activations where a gradient is asked for."""
    blocks = [
        part for part in module.modules() if type(part).__name__ in BLOCKS and any(p.requires_grad for p in part.parameters())
    ]
    if not wanted:
        blocks = []
    for block in blocks:
        # An attribute of the instance hides the method of the class; the state dict does not change.
        vars(block)["forward"] = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del vars(block)["forward"]
