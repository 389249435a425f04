"""Batches of pairs, a pure function of the step: the data position of a resumed run is its step number, no state is kept.

Knows nothing of losses or files.
"""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from capfilt.config.architecture import Architecture
from capfilt.identity import content_hash
from capfilt.modeling.batch import Batch
from capfilt.modeling.preprocess import normalise
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.training.data import PairSet

Int64Array = npt.NDArray[np.int64]
TEXTS_AT_ONCE = 8192
LENGTH_STEP = 4  # few different lengths, so that kernels and allocations are reused


def split_batch(batch_size: int, human_share: float) -> tuple[int, int]:
    """Web and human pairs per batch: the human share rounded half up; a share that is not 0 gets at least one pair."""
    human = floor(batch_size * human_share + 0.5)
    if human_share > 0:
        human = max(1, human)
    if human_share < 1 and batch_size > 1:
        human = min(human, batch_size - 1)
    return batch_size - human, human


class EndlessShuffle:
    """Numbers 0 … n - 1 in another order each epoch, without end; any part is found from its position alone."""

    def __init__(self, n: int, *seed: int) -> None:
        self.n = n
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def take(self, start: int, count: int) -> Int64Array:
        """`count` numbers from position `start` of the stream."""
        parts: list[Int64Array] = []
        while count:
            epoch, at = divmod(start, self.n)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, np.random.default_rng([*self._seed, epoch]).permutation(self.n)
            parts.append(self._order[at : at + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts) if len(parts) != 1 else parts[0]


class Tokens:
    """Token ids of N texts, end to end: 4 bytes a token, no padding kept."""

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer, max_length: int) -> None:
        self.max_length = max_length
        self._pad = tokenizer.pad_id
        flat: list[npt.NDArray[np.int32]] = []
        lengths: list[Int64Array] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            ids_RT, mask_RT = tokenizer.encode_batch(texts[start : start + TEXTS_AT_ONCE], max_length)
            flat.append(ids_RT[mask_RT.astype(bool)].astype(np.int32))
            lengths.append(mask_RT.sum(1))
        self._flat = np.concatenate(flat)
        self._lengths = np.concatenate(lengths)
        self._starts = np.concatenate([[0], np.cumsum(self._lengths)[:-1]])

    def content(self) -> tuple[bytes, bytes]:
        return self._flat.tobytes(), self._lengths.tobytes()

    def take(self, index_B: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Ids and mask, [B, T]; T is the longest text, rounded up to a multiple of `LENGTH_STEP`, at most `max_length`."""
        lengths_B = self._lengths[index_B]
        width = min(ceil(int(lengths_B.max()) / LENGTH_STEP) * LENGTH_STEP, self.max_length)
        column_T = np.arange(width)
        mask_BT = column_T < lengths_B[:, None]
        at_BT = np.minimum(self._starts[index_B][:, None] + column_T, len(self._flat) - 1)
        return np.where(mask_BT, self._flat[at_BT], self._pad).astype(np.int64), mask_BT.astype(np.int64)


class Batches:
    """Step -> batch. Each source is an endless shuffle of its own; sources stand one after another in a batch.

    Pictures are squeezed to the square and otherwise untouched: a mirrored or cropped picture would belie its text.

    Args:
        sources: (pairs, how many per batch); a count of 0 leaves a source out.
        prompt: Put before every text (captioner).
        seed: Of the order.
        device: Pixels go there as uint8 and are normalised there.
    """

    def __init__(
        self,
        sources: Sequence[tuple[PairSet, int]],
        tokenizer: Tokenizer,
        architecture: Architecture,
        *,
        seed: int,
        device: str = "cpu",
        prompt: str = "",
    ) -> None:
        self._sources = [(pairs, count) for pairs, count in sources if count]
        self._architecture = architecture
        self._device = device
        self._orders = [EndlessShuffle(len(pairs), seed, number) for number, (pairs, _) in enumerate(self._sources)]
        texts = [prompt + text for pairs, _ in self._sources for text in pairs.texts]
        # The prompt comes on top of the text's own length, as far as the network has positions.
        longest = architecture.max_text_length + len(tokenizer.encode_prompt(prompt)) - 1
        self._tokens = Tokens(texts, tokenizer, min(longest, architecture.text.max_positions))
        self._first_text = np.cumsum([0, *(len(pairs) for pairs, _ in self._sources)])
        self.pairs: int = sum(count for _, count in self._sources)
        first, count = self._sources[0]
        # An epoch is over when the first source has been seen once.
        self.steps_per_epoch: int = ceil(len(first) / count)

    def content(self) -> str:
        """Hash of what is drawn from: texts, pictures and counts. Says whether a checkpoint belongs to these batches."""
        parts: list[str | bytes] = [*self._tokens.content()]
        for pairs, count in self._sources:
            parts += [str(count), pairs.picture_of.tobytes(), pairs.image_ids.tobytes()]
        return content_hash(*parts)

    def __call__(self, step: int) -> Batch:
        """The batch of step 0, 1, 2 …"""
        pixels: list[Tensor] = []
        image_ids: list[Int64Array] = []
        text_index: list[Int64Array] = []
        for (pairs, count), order, first in zip(self._sources, self._orders, self._first_text[:-1], strict=True):
            index_b = order.take(step * count, count)
            pictures_b = pairs.picture_of[index_b]
            pixels.append(pairs.pictures.take(pictures_b))
            image_ids.append(pairs.image_ids[pictures_b])
            text_index.append(index_b + first)
        ids_BT, mask_BT = self._tokens.take(np.concatenate(text_index))
        pixels_BCHW = (torch.cat(pixels) if len(pixels) > 1 else pixels[0]).to(self._device)
        return Batch(
            normalise(pixels_BCHW, self._architecture),
            torch.from_numpy(ids_BT).to(self._device),
            torch.from_numpy(mask_BT).to(self._device),
            torch.from_numpy(np.concatenate(image_ids)).to(self._device),
        )
