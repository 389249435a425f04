"""Pictures for training: decoded once to small uint8 squares in memory, or kept encoded on disk where they are too many.

Knows nothing of texts or tables. The pixels are the same either way.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedWriter
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from capfilt.errors import InputError
from capfilt.images import ImageError, decode_rgb
from capfilt.modeling.clipcap.image import centre_square
from capfilt.modeling.preprocess import to_uint8

CACHE_BYTES = 2 << 30
Int64Array = npt.NDArray[np.int64]
Change = Callable[[Image.Image, int], Image.Image]
"""A decoded picture and the place of its pair in the training's stream -> an RGB square."""


class Pictures:
    """P distinct pictures, each a uint8 square of `size` pixels; equal bytes are one picture.

    Args:
        capacity: At least the number of pictures; where `capacity` squares exceed `cache_bytes`, encoded bytes go to `spool`: on
            disk the set's own size, in memory about 150 bytes per picture.
        change: Makes another square of a picture each time it is taken; then encoded bytes are what is kept.
        threads: That decode. They change no pixel.
        takes_middle: Of a picture the middle square, as CLIP does; else it is squeezed.
    """

    def __init__(
        self,
        size: int,
        capacity: int,
        *,
        spool: Path,
        cache_bytes: int = CACHE_BYTES,
        threads: int = 2,
        change: Change | None = None,
        takes_middle: bool = False,
    ) -> None:
        self.size = size
        self._takes_middle = takes_middle
        self._change = change
        self.is_cached = change is None and capacity * 3 * size * size <= cache_bytes
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._index: dict[bytes, int] = {}
        self._ids: list[int] = []
        # Pages that are never written cost nothing, so an upper bound does for the size.
        self._pixels_PCHW = torch.empty((capacity if self.is_cached else 0, 3, size, size), dtype=torch.uint8)
        self._spool_path = spool
        self._spool = None if self.is_cached else _new_file(spool)
        self._ends = [0]

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, encoded: Sequence[bytes], names: Sequence[str]) -> list[int]:
        """Index of each picture; new ones are decoded (or spooled).

        Raises:
            InputError: If bytes are no picture; `names` says which.
        """
        found: list[int] = []
        fresh: list[tuple[bytes, str]] = []
        first = len(self._ids)
        for data, name in zip(encoded, names, strict=True):
            digest = hashlib.sha256(data).digest()
            if digest not in self._index:
                self._index[digest] = len(self._ids)
                self._ids.append(int.from_bytes(digest[:8], "little") >> 1)  # 63 bits: never the queue's -1
                fresh.append((data, name))
            found.append(self._index[digest])
        if self._spool is None:
            for at, square in enumerate(self._pool.map(self._square_of, fresh), start=first):
                self._pixels_PCHW[at] = square
        else:
            for data, _ in fresh:
                self._spool.write(data)
                self._ends.append(self._ends[-1] + len(data))
        return found

    def image_ids(self) -> Int64Array:
        """[P], from the hash of the bytes: the same picture has the same id in every set."""
        return np.array(self._ids, dtype=np.int64)

    def take(self, index_B: Int64Array, places_B: Int64Array | None = None) -> Tensor:
        """uint8 [B, 3, S, S]. `places_B`: what `change` is told."""
        if self._spool is None:
            return self._pixels_PCHW.index_select(0, torch.from_numpy(index_B))
        self._spool.flush()
        content = np.memmap(self._spool_path, dtype=np.uint8, mode="r")
        encoded = [(content[self._ends[i] : self._ends[i + 1]].tobytes(), f"picture {i}") for i in index_B.tolist()]
        places = [None] * len(encoded) if places_B is None else places_B.tolist()
        return torch.stack(list(self._pool.map(self._square_of, encoded, places)))

    def close(self) -> None:
        self._pool.shutdown(wait=False)
        if self._spool is not None:
            self._spool.close()
            self._spool_path.unlink(missing_ok=True)

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _square_of(self, named: tuple[bytes, str], place: int | None = None) -> Tensor:
        data, name = named
        try:
            picture = decode_rgb(data)
            if self._change is not None and place is not None:
                picture = self._change(picture, place)
            if self._takes_middle:
                picture = centre_square(picture, self.size)
            return to_uint8([picture], self.size)[0]
        except ImageError as error:
            raise InputError(f"{name}: expected an encoded picture, found {error}; replace it or leave the row out") from None


def _new_file(path: Path) -> BufferedWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")
