"""Heads are trained by the training loop that trains everything else.

Knows how rows become batches; nothing of what a head is or learns.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from capfilt.config.downstream import Fit
from capfilt.evaluation.tasks.base import Asked, Int64Array
from capfilt.training.batches import EndlessShuffle
from capfilt.training.loop import train


class RowBatches:
    """Step -> `make(rows)` of the next rows, in another order each epoch."""

    def __init__(self, rows: int, batch_size: int, seed: int, make: Callable[[Int64Array], Any]) -> None:
        self.pairs = min(batch_size, rows)
        self.steps_per_epoch = max(1, rows // self.pairs)
        self._order = EndlessShuffle(rows, seed)
        self._make = make

    def __call__(self, step: int) -> Any:
        return self._make(self._order.take(step * self.pairs, self.pairs))


def fit(module: nn.Module, rows: int, make: Callable[[Int64Array], Any], how: Fit, asked: Asked, *, lm_weight: float = 1) -> None:
    """Train `module` in place on batches made of some of `rows` rows; it answers `losses(batch)`, and ends in evaluation mode."""
    module.to(asked.device)
    batches = RowBatches(rows, how.batch_size, asked.seed % (1 << 32), make)
    told: Any = {"work": asked.work / "fit", "seed": asked.seed, "device": asked.device, "on_step": asked.on_step}
    train(module, batches, how.optim(lm_weight), **told)  # type: ignore[arg-type]
    module.eval()
