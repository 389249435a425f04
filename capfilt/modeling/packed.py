"""Linear maps that keep their weights as a CPU's matrix kernels read them, so that no call has to bring them into that order.

Knows nothing of networks. torch's own linear map reorders its weights at every call, which costs as much as the product where
rows are few: a decoding step of 4 to 8 captions takes half the time packed, thousands of rows nine tenths. In bfloat16 results
were equal to the bit at all sizes tried; in float32 their last bits differ, as they do between batch sizes.
"""

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 8
"""What the order of the weights is chosen for: the rows of a decoding step. Thousands of rows run as fast with it."""
NARROWEST = 512
"""Maps narrower than this on either side stay plain: they gain little, and small networks keep their float32 bits."""


class PackedLinear(nn.Linear):
    """An nn.Linear with a second, packed copy of its weights; the first stays what state dicts, ties and slices see.

    Falls back to the plain product where gradients are on, for inputs of another type, and once the module has been moved, cast,
    copied, or its weights were written to.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        self._packed: Tensor | None = None
        self._version = -1
        self.train(plain.training)

    def pack(self) -> None:
        """Make the packed copy of the weights as they are now."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), ROWS)
        self._version = _version(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        packed = self._packed
        if packed is None or torch.is_grad_enabled() or x.dtype != self.weight.dtype or _version(self.weight) != self._version:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, self.bias, "none", [], "")
        return out

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._packed = None
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return moved

    def __getstate__(self) -> dict[str, object]:
        """Copies and pickles are plain until packed: packed tensors know neither."""
        return self.__dict__ | {"_packed": None}


def _version(weight: Tensor) -> int:
    """How often it was written to; tensors made in inference mode do not count."""
    return -1 if weight.is_inference() else weight._version


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and processor have kernels that take packed weights of this type."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack(model: nn.Module, *, narrowest: int = NARROWEST) -> None:
    """Pack the wide linear maps of a model on a CPU, in place; all else, and models on other devices, stay as they are.

    Takes as much memory again as the weights of these maps. Modules that share a map go on sharing it.
    """
    made: dict[int, PackedLinear] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and _is_worth_it(child, narrowest):
                setattr(parent, name, made.setdefault(id(child), PackedLinear(child)))
    for module in model.modules():
        if isinstance(module, PackedLinear) and module.weight.device.type == "cpu" and can_pack(module.weight.dtype):
            module.pack()


def _is_worth_it(plain: nn.Linear, narrowest: int) -> bool:
    weight = plain.weight
    return weight.device.type == "cpu" and min(weight.shape) >= narrowest and can_pack(weight.dtype)
