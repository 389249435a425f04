"""What every task is given, and how a share of right answers is told.

Knows nothing of single tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from capfilt.config.architectures import image_side
from capfilt.evaluation.bootstrap import interval_of_ratio
from capfilt.evaluation.tasks.data import Shown
from capfilt.modeling.families import Loaded
from capfilt.modeling.preprocess import normalise
from capfilt.training.loop import StepReport

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
    on_step: Callable[[StepReport], None] = lambda report: None
    """Told how far a training is."""

    @property
    def size(self) -> int:
        """Pixels of the network's square."""
        return image_side(self.loaded.architecture)

    def show(self, encoded: Sequence[Sequence[bytes]], spool: str, name: str) -> Shown:
        """The pictures of rows as the network was trained to see them; `name` is said of one that is none."""
        return Shown(encoded, self.size, self.work / spool, name, takes_middle=self.loaded.takes_middle)

    @property
    def model(self) -> Any:
        return self.loaded.model

    def normalised(self, pixels_CHW: Tensor) -> Tensor:
        """float32 on the device, of uint8 [..., 3, H, W]."""
        return normalise(pixels_CHW.to(self.device), self.loaded.architecture)

    def tokens(self, texts: list[str], pad_to: int | None = None, *, as_trained: bool = False) -> tuple[Tensor, Tensor]:
        """Ids and mask of texts on the device, at most as long as the network can read.

        `as_trained`: at most as long as the texts that it was trained on; for a network that learns nothing more.
        """
        longest = int(self.loaded.architecture.max_text_length) if as_trained else self.longest
        ids_RT, mask_RT = self.loaded.tokenizer.encode_batch(texts, longest, pad_to=pad_to)
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

    def share_by_row(self, is_right: npt.ArrayLike, row_of: Int64Array, rows: int) -> Measured:
        """As `share`, where several answers belong to a row: a draw takes all of a row's or none."""
        values = np.asarray(is_right, dtype=np.float64)
        counts = np.bincount(row_of, minlength=rows).astype(np.float64)
        sums = np.bincount(row_of, values, rows).astype(np.float64)
        interval = interval_of_ratio(sums, counts, draws=self.draws, seed=self.seed)
        return {"value": float(values.mean()), "interval": list(interval)}


def majority(labels: Int64Array) -> float:
    """Share of the most frequent label: what an answer without looking gets. Labels below 0 are unknown: no answer gets them."""
    counts = np.bincount(labels[labels >= 0], minlength=1)
    return float(counts.max() / len(labels))
