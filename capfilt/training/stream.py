"""Pairs from more shards than memory holds, shuffled, each place of the stream a pure function of its number.

Chunks are dealt to lanes; a batch takes one row of each lane in turn. A lane goes through its chunks in another order each time
round, several chunks at once as a buffer whose rows are shuffled. A resumed run reads the buffers that its step lies in and
has the same batches; a worker that takes every n-th row reads only its own lanes, where their number is a multiple of n.

Memory: per lane two buffers (the current one, the next being read) of `shuffle_rows / lanes` rows and at most a chunk more, as
encoded pictures. Knows nothing of tokens or networks.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from capfilt.errors import InputError
from capfilt.images import ImageError, decode_rgb
from capfilt.modeling.preprocess import to_uint8
from capfilt.plan import Chunk
from capfilt.training.pictures import Change

Int64Array = npt.NDArray[np.int64]
Row = tuple[bytes, list[str]]
READERS = 2  # threads that read ahead


class Reader(Protocol):
    """Where chunks and their rows come from (`capfilt.training.shards.ShardReader`)."""

    chunks: tuple[Chunk, ...]
    content: str

    def rows(self, chunk: Chunk) -> list[Row]: ...
    def texts(self) -> Iterator[str]: ...


class _Lane:
    """An endless shuffle of the rows of some chunks."""

    def __init__(
        self, number: int, chunks: Sequence[Chunk], reader: Reader, pool: ThreadPoolExecutor, seed: int, buffer: int
    ) -> None:
        self.rows = sum(chunk.rows for chunk in chunks)
        self._number, self._chunks, self._reader, self._pool, self._seed = number, chunks, reader, pool, seed
        self._buffer = buffer
        self._round = -1
        self._groups: list[list[Chunk]] = []
        self._ends = np.empty(0, dtype=np.int64)
        self._read: dict[tuple[int, int], Future[list[Row]]] = {}

    def around(self, place: int) -> tuple[list[Row], int]:
        """The shuffled buffer that holds a place of the lane, and where in it the place is."""
        number, at = divmod(place, self.rows)
        self._turn(number)
        group = int(np.searchsorted(self._ends, at, side="right"))
        rows = self._future(number, group).result()
        if not rows:
            where = ", ".join(sorted({chunk.path for chunk in self._groups[group]}))
            raise InputError(f"{where}: expected pictures with texts, found none in {self._ends[group]} rows. Name other shards")
        wanted = {(number, group)}
        if group + 1 < len(self._groups):
            wanted.add((number, group + 1))
            self._future(number, group + 1)
        self._read = {key: future for key, future in self._read.items() if key in wanted}
        return rows, at - (int(self._ends[group - 1]) if group else 0)

    def _turn(self, number: int) -> None:
        """This time round, which chunks form a buffer."""
        if number == self._round:
            return
        order = np.random.default_rng([self._seed, self._number, number]).permutation(len(self._chunks))
        groups: list[list[Chunk]] = [[]]
        for index in order.tolist():
            if sum(chunk.rows for chunk in groups[-1]) >= self._buffer:
                groups.append([])
            groups[-1].append(self._chunks[index])
        if len(groups) > 1 and 2 * sum(chunk.rows for chunk in groups[-1]) < self._buffer:
            groups[-2] += groups.pop()
        self._round, self._groups = number, groups
        self._ends = np.cumsum([sum(chunk.rows for chunk in group) for group in groups])

    def _future(self, number: int, group: int) -> Future[list[Row]]:
        key = (number, group)
        if key not in self._read:
            self._read[key] = self._pool.submit(self._load, list(self._groups[group]), (self._seed, self._number, number, group))
        return self._read[key]

    def _load(self, chunks: Sequence[Chunk], seed: tuple[int, ...]) -> list[Row]:
        rows = [row for chunk in chunks for row in self._reader.rows(chunk)]
        return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows)).tolist()]


class StreamedPairs:
    """Pairs of shards by their place in an endless stream; of a row with several texts each visit draws one.

    A row without a picture or text, or with a picture that cannot be decoded, is replaced by another of its buffer.

    Args:
        size: Side of the square pictures.
        shuffle_rows: Rows in all current buffers together.
        lanes: Chunks read side by side; fewer where there are fewer chunks.
        change: Of each picture; None squeezes it to the square.
    """

    def __init__(
        self,
        reader: Reader,
        size: int,
        *,
        seed: int,
        shuffle_rows: int,
        lanes: int,
        threads: int = 2,
        change: Change | None = None,
    ) -> None:
        self._reader, self._size, self._seed, self._change = reader, size, seed, change
        self._readers = ThreadPoolExecutor(READERS, "read")
        self._decoders = ThreadPoolExecutor(threads, "decode")
        dealt: list[list[Chunk]] = [[] for _ in range(min(lanes, len(reader.chunks)))]
        for chunk in sorted(reader.chunks, key=lambda chunk: -chunk.rows):
            min(dealt, key=lambda own: sum(other.rows for other in own)).append(chunk)
        buffer = max(1, shuffle_rows // len(dealt))
        self._lanes = [_Lane(i, own, reader, self._readers, seed, buffer) for i, own in enumerate(dealt)]
        self.content = reader.content

    def __len__(self) -> int:
        """Rows, those without a pair too: what an epoch is counted in."""
        return sum(lane.rows for lane in self._lanes)

    def texts(self, at_most: int) -> list[str]:
        return list(islice(self._reader.texts(), at_most))

    def take(self, places_B: Int64Array) -> tuple[Tensor, Int64Array, list[str]]:
        """Pictures uint8 [B, 3, S, S], image ids [B] and texts of these places of the stream."""
        found: list[tuple[list[Row], int, int]] = []
        for place in places_B.tolist():
            lane = self._lanes[place % len(self._lanes)]
            found.append((*lane.around(place // len(self._lanes)), place))
        drawn = list(self._decoders.map(self._pair, found))
        ids = [int.from_bytes(hashlib.sha256(image).digest()[:8], "little") >> 1 for _, image, _ in drawn]
        return torch.stack([square for square, _, _ in drawn]), np.array(ids, dtype=np.int64), [text for _, _, text in drawn]

    def close(self) -> None:
        for pool in (self._readers, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)

    def _pair(self, where: tuple[list[Row], int, int]) -> tuple[Tensor, bytes, str]:
        rows, at, place = where
        problem: ImageError | None = None
        for i in range(len(rows)):
            image, texts = rows[(at + i) % len(rows)]
            try:
                picture = decode_rgb(image)
            except ImageError as error:
                problem = error
                continue
            if self._change is not None:
                picture = self._change(picture, place)
            text = texts[int(np.random.default_rng([self._seed, place]).integers(len(texts)))]
            return to_uint8([picture], self._size)[0], image, text
        raise InputError(
            f"pretrain.web: expected pictures, found {len(rows)} rows in a row without one ({problem}). Name other shards"
        )
