"""Pixels of the next batch, made and copied to the GPU while it works on this one.

Knows nothing of networks or of how pixels are made. On a CPU nothing is made ahead: the cores have work enough.

Axes at the end of tensor names: B images, C channels, H and W pixels.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

Asked = tuple[range, int]
"""Positions of a batch's pictures, and the batch's size."""


class Ahead:
    """`take` gives a batch's pixels on the device and begins with the batch that follows it. One thread, closed at the end."""

    def __init__(
        self, make: Callable[[range, int], Tensor], count: int, device: torch.device, *, looks_ahead: bool | None = None
    ) -> None:
        """`make(here, size)`: uint8 [size, C, H, W] on the CPU. `count`: of all pictures. `looks_ahead`: None: on a GPU."""
        self._make = make
        self._count = count
        self._device = device
        self._thread = ThreadPoolExecutor(1) if looks_ahead or (looks_ahead is None and device.type == "cuda") else None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._next: tuple[Asked, Future[Tensor]] | None = None

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def take(self, here: range, size: int) -> Tensor:
        """[size, C, H, W] on the device. A batch that was not foreseen (halved for want of memory, say) is made now."""
        foreseen, self._next = self._next, None
        pixels_BCHW = foreseen[1].result() if foreseen is not None and foreseen[0] == (here, size) else self._copied(here, size)
        following = range(here.stop, min(here.stop + size, self._count))
        if self._thread is not None and following:
            self._next = (following, size), self._thread.submit(self._copied, following, size)
        if self._stream is not None:
            pixels_BCHW.record_stream(torch.cuda.current_stream(self._device))
        return pixels_BCHW

    def _copied(self, here: range, size: int) -> Tensor:
        """From page-locked memory, without which a copy holds the GPU up; in a stream of its own, beside the network's work."""
        pixels_BCHW = self._make(here, size)
        if self._stream is None:
            return pixels_BCHW.to(self._device)
        with torch.cuda.stream(self._stream):
            moved_BCHW = pixels_BCHW.pin_memory().to(self._device, non_blocking=True)
        self._stream.synchronize()  # holds up this thread alone; the page-locked memory may then be used again
        return moved_BCHW
