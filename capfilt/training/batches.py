"""Batches of pairs, a pure function of the step: the data position of a resumed run is its step number, no state is kept.

Knows nothing of losses or files.
"""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from capfilt.config.architectures import Architecture
from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.config.architectures.clipcap import ClipCapArchitecture
from capfilt.config.train import Mix
from capfilt.identity import content_hash
from capfilt.modeling.batch import Batch
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.families import AnyTokenizer
from capfilt.modeling.preprocess import normalise
from capfilt.training.data import PairSet
from capfilt.training.stream import StreamedPairs

Int64Array = npt.NDArray[np.int64]
Drawn = tuple[Tensor, Int64Array, Int64Array, Int64Array]
"""Pixels uint8 [B, 3, S, S], image ids [B], token ids [B, T], mask [B, T]."""
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


def split_mix(batch_size: int, mix: Mix) -> tuple[int, int, int]:
    """Web, human and labelled pairs per batch, each as `split_batch` rounds it, labelled ones first."""
    rest, labelled = split_batch(batch_size, mix.labelled) if mix.labelled else (batch_size, 0)
    if not mix.web:  # not by the quotient below, which may come out as less than 1
        return 0, rest, labelled
    return *(split_batch(rest, min(1.0, mix.human / (1 - mix.labelled))) if rest else (0, 0)), labelled


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

    def __init__(self, texts: Sequence[str], tokenizer: AnyTokenizer, max_length: int) -> None:
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


class _Held:
    """Pairs in memory, in another order each epoch."""

    def __init__(self, pairs: PairSet, tokens: Tokens, order: EndlessShuffle) -> None:
        self._pairs, self._tokens, self._order = pairs, tokens, order

    def content(self) -> list[str | bytes]:
        return [*self._tokens.content(), self._pairs.picture_of.tobytes(), self._pairs.image_ids.tobytes()]

    def take(self, start: int, count: int, rows_b: Int64Array) -> Drawn:
        index_b = self._order.take(start, count)[rows_b]
        pictures_b = self._pairs.picture_of[index_b]
        pixels = self._pairs.pictures.take(pictures_b, start + rows_b)
        return pixels, self._pairs.image_ids[pictures_b], *self._tokens.take(index_b)


class _Streamed:
    """Pairs from shards; their texts become tokens when it is their turn."""

    def __init__(self, pairs: StreamedPairs, tokenizer: AnyTokenizer, max_length: int, prompt: str) -> None:
        self._pairs, self._tokenizer, self._max_length, self._prompt = pairs, tokenizer, max_length, prompt

    def content(self) -> list[str | bytes]:
        return [self._pairs.content, self._prompt, *self._tokenizer.tokens()]

    def take(self, start: int, count: int, rows_b: Int64Array) -> Drawn:
        pixels, image_ids, texts = self._pairs.take(start + rows_b)
        tokens = Tokens([self._prompt + text for text in texts], self._tokenizer, self._max_length)
        return pixels, image_ids, *tokens.take(np.arange(len(texts)))


class Batches:
    """Step -> batch. Each source is an endless shuffle of its own; sources stand one after another in a batch.

    Pictures are squeezed to the square and otherwise untouched, unless the source changes them (`augment`).

    Args:
        sources: (pairs, how many per batch); a count of 0 leaves a source out.
        prompt: Put before every text (captioner).
        seed: Of the order.
        device: Pixels go there as uint8 and are normalised there.
        fraction_per_epoch: Of the first source: after so much of it an epoch is over.
        language: BLIP-2's stage 2: the language model, whose positions bound a text's tokens.
    """

    def __init__(
        self,
        sources: Sequence[tuple[PairSet | StreamedPairs, int]],
        tokenizer: AnyTokenizer,
        architecture: Architecture,
        *,
        seed: int,
        device: str = "cpu",
        prompt: str = "",
        fraction_per_epoch: float = 1.0,
        language: FrozenLanguage | None = None,
    ) -> None:
        kept = [(pairs, count) for pairs, count in sources if count]
        self._architecture = architecture
        self._device = device
        self._pad = tokenizer.pad_id
        # The prompt comes on top of the text's own length, as far as the network has positions.
        of_prompt = len(tokenizer.encode_prompt(prompt)) - len(tokenizer.encode_prompt(""))
        longest = min(architecture.max_text_length + of_prompt, text_positions(architecture, language))
        self._sources: list[tuple[_Held | _Streamed, int]] = []
        for number, (pairs, count) in enumerate(kept):
            if isinstance(pairs, StreamedPairs):
                self._sources.append((_Streamed(pairs, tokenizer, longest, prompt), count))
            else:
                tokens = Tokens([prompt + text for text in pairs.texts], tokenizer, longest)
                self._sources.append((_Held(pairs, tokens, EndlessShuffle(len(pairs), seed, number)), count))
        self.pairs: int = sum(count for _, count in kept)
        first, count = kept[0]
        self.steps_per_epoch: int = ceil(len(first) * fraction_per_epoch / count)

    def content(self) -> str:
        """Hash of what is drawn from: texts, pictures and counts. Says whether a checkpoint belongs to these batches."""
        return content_hash(*(part for source, count in self._sources for part in (str(count), *source.content())))

    def __call__(self, step: int) -> Batch:
        """The batch of step 0, 1, 2 …"""
        return self.part(step, 0, 1)

    def part(self, step: int, part: int, parts: int) -> Batch:
        """Every `parts`-th pair of the batch from pair `part` on."""
        drawn: list[Drawn] = []
        first = 0
        for source, count in self._sources:
            rows_b = np.arange((part - first) % parts, count, parts)
            if len(rows_b):
                drawn.append(source.take(step * count, count, rows_b))
            first += count
        pixels, image_ids, ids, masks = zip(*drawn, strict=True)
        width = max(x.shape[1] for x in ids)
        ids_BT = np.concatenate([_widened(x, width, self._pad) for x in ids])
        mask_BT = np.concatenate([_widened(x, width, 0) for x in masks])
        pixels_BCHW = (torch.cat(pixels) if len(pixels) > 1 else pixels[0]).to(self._device)
        return Batch(
            normalise(pixels_BCHW, self._architecture),
            torch.from_numpy(ids_BT).to(self._device),
            torch.from_numpy(mask_BT).to(self._device),
            torch.from_numpy(np.concatenate(image_ids)).to(self._device),
        )


def text_positions(architecture: Architecture, language: FrozenLanguage | None = None) -> int:
    """Tokens that a text may have; before a ClipCap's text stands the prefix, before a `language` model's the queries."""
    if isinstance(architecture, Blip2Architecture) and language is not None:
        return language.longest - architecture.text.queries
    taken = architecture.prefix_length if isinstance(architecture, ClipCapArchitecture) else 0
    return architecture.text.max_positions - taken


def _widened(x_BT: Int64Array, width: int, value: int) -> Int64Array:
    return np.pad(x_BT, ((0, 0), (0, width - x_BT.shape[1])), constant_values=value)
