"""What every task is given, and how a share of right answers is told.

Knows nothing of single tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from capfilt.errors import ConfigError
from capfilt.evaluation.bootstrap import interval_of_ratio
from capfilt.modeling.families import Loaded
from capfilt.modeling.preprocess import normalise

Int64Array = npt.NDArray[np.int64]
Measured = dict[str, Any]
"""JSON values: `n`, and by each measure's name `{"value": …, "interval": [low, high]}`."""


@dataclass(frozen=True)
class Asked:
    """One model, asked for one task."""

    loaded: Loaded
    work: Path
    """A folder of the task's own, for pictures that do not fit into memory and for checkpoints."""
    device: str
    seed: int
    draws: int
    """Of the bootstrap."""
    batch_size: int

    @property
    def size(self) -> int:
        """Pixels of the network's square."""
        architecture: Any = self.loaded.architecture
        return int(architecture.image.size)

    @property
    def model(self) -> Any:
        return self.loaded.model

    def normalised(self, pixels_CHW: Tensor) -> Tensor:
        """float32 on the device, of uint8 [..., 3, H, W]."""
        return normalise(pixels_CHW.to(self.device), self.loaded.architecture)

    def tokens(self, texts: list[str], pad_to: int | None = None) -> tuple[Tensor, Tensor]:
        """Ids and mask of texts on the device, at most as long as the network can read."""
        ids_RT, mask_RT = self.loaded.tokenizer.encode_batch(texts, self.longest, pad_to=pad_to)
        return torch.from_numpy(ids_RT).to(self.device), torch.from_numpy(mask_RT).to(self.device)

    @property
    def longest(self) -> int:
        """Tokens of a text. `max_text_length` is of captions; questions may be longer."""
        architecture: Any = self.loaded.architecture
        return int(architecture.text.max_positions)

    def parts(self, count: int) -> Iterator[Int64Array]:
        """0 … count - 1 in parts of `batch_size`."""
        for start in range(0, count, self.batch_size):
            yield np.arange(start, min(start + self.batch_size, count))

    def share(self, is_right: npt.ArrayLike) -> Measured:
        """Mean of 0 and 1, with its 95 % interval."""
        values = np.asarray(is_right, dtype=np.float64)
        interval = interval_of_ratio(values, np.ones(len(values)), draws=self.draws, seed=self.seed)
        return {"value": float(values.mean()), "interval": list(interval)}

    def mean(self, values: npt.ArrayLike) -> Measured:
        """As `share`, of any numbers."""
        return self.share(values)


def majority(labels: Int64Array) -> float:
    """Share of the most frequent label: what an answer without looking gets."""
    return float(np.bincount(labels).max() / len(labels))


def refuse(asked: Asked, task: str, able: str) -> ConfigError:
    """A family that cannot do a task."""
    return ConfigError(
        f"{task}: expected {able}, found a {type(asked.model).__name__}. Name another model, or leave the task out"
    )
