"""What the workers of one training tell each other: features of all, sums over all. One worker alone needs no communication.

Worker r of W holds rows r, r + W, r + 2 W, ... of a batch; what is gathered stands in the batch's own order, so that a
computation on all rows is the one that a single worker would do. Knows nothing of losses, of launching or of networks.

Axes at the end of tensor names: L one worker's rows, B rows of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This worker among `size`; the process group is there already."""

    rank: int = 0
    size: int = 1

    def rows(self, count: int) -> Tensor:
        """[L]: which rows of the whole batch are this worker's `count`."""
        return torch.arange(count) * self.size + self.rank

    def gather(self, x_L: Tensor) -> Tensor:
        """Rows of all workers in the batch's order; gradients end here. Every worker gives equal shapes."""
        if self.size == 1:
            return x_L.detach()
        return _gathered(x_L.detach(), self)

    def gather_learning(self, x_L: Tensor) -> Tensor:
        """As `gather`; a gradient of any worker goes back to the worker whose row it is, summed."""
        if self.size == 1:
            return x_L
        found: Tensor = _Gather.apply(x_L, self)  # type: ignore[no-untyped-call]
        return found

    def gather_texts(self, ids_LT: Tensor, mask_LT: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
        """Ids and mask of all, padded to the longest of all."""
        if self.size == 1:
            return ids_LT, mask_LT
        width = torch.tensor(ids_LT.shape[1], device=ids_LT.device)
        dist.all_reduce(width, dist.ReduceOp.MAX)
        more = (0, int(width) - ids_LT.shape[1])
        padded = (torch.nn.functional.pad(ids_LT, more, value=pad_id), torch.nn.functional.pad(mask_LT, more))
        return self.gather(padded[0]), self.gather(padded[1])

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes its sum over the workers, the same bits on all; sent as one tensor per type."""
        if self.size == 1:
            return
        for kind in dict.fromkeys(x.dtype for x in tensors):
            same = [x for x in tensors if x.dtype == kind]
            flat = torch.cat([x.flatten() for x in same])
            dist.all_reduce(flat)
            for x, part in zip(same, torch.split(flat, [x.numel() for x in same]), strict=True):
                x.copy_(part.view_as(x))

    def objects(self, mine: Any) -> list[Any]:
        """Everyone's, by rank."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, mine)
        return found

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


def _gathered(x_L: Tensor, ranks: Ranks) -> Tensor:
    x_L = x_L.contiguous()
    found = [torch.empty_like(x_L) for _ in range(ranks.size)]
    dist.all_gather(found, x_L)
    return torch.stack(found, dim=1).flatten(0, 1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_L: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return _gathered(x_L, ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        grad_B = gradients[0].contiguous().clone()
        dist.all_reduce(grad_B)
        return grad_B[ctx.ranks.rank :: ctx.ranks.size], None
