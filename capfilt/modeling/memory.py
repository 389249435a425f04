"""Model batches that shrink where the GPU's memory does not suffice: halved and tried again, down to one row.

The only place that answers a CUDA out-of-memory error. Knows no model; imports torch only where a batch is run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

Made = TypeVar("Made")


@dataclass
class Shrunk:
    """What memory allowed so far: the smallest batch that was gone down to, by the batch size asked for."""

    sizes: dict[int, int] = field(default_factory=dict)

    @property
    def told(self) -> str | None:
        """`64 -> 32`, None where every batch fitted."""
        return ", ".join(f"{asked} -> {size}" for asked, size in sorted(self.sizes.items())) or None


_CURRENT: ContextVar[Shrunk | None] = ContextVar("capfilt_shrunk", default=None)


@contextmanager
def shrinking() -> Iterator[Shrunk]:
    """While entered, a batch size that proved too large is not tried again; the next entry begins at the full size.

    The runner enters it once per chunk: a passing shortage costs one chunk its full batches, not all that follow.
    """
    shrunk = Shrunk()
    token = _CURRENT.set(shrunk)
    try:
        yield shrunk
    finally:
        _CURRENT.reset(token)


def in_batches(count: int, batch_size: int, run: Callable[[range, int], Made]) -> Iterator[Made]:
    """`run(rows, size)` for consecutive ranges of at most `size` rows that cover `count`; `size` is `batch_size` or a half of it.

    `run` pads its tensors to `size` rows. Results of a halved batch may differ in the last bits from those of a full one.

    Raises:
        torch.OutOfMemoryError: If not even one row fits.
    """
    import torch

    shrunk = _CURRENT.get() or Shrunk()
    start = 0
    while start < count:
        size = shrunk.sizes.get(batch_size, batch_size)
        rows = range(start, min(start + size, count))
        try:
            made = run(rows, size)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            shrunk.sizes[batch_size] = size // 2
        else:
            yield made
            start = rows.stop
            continue
        torch.cuda.empty_cache()  # outside the handler, whose traceback holds the batch; does nothing without a GPU
