"""MED's decoding step with shapes and addresses that never change, so that a GPU replays it as one CUDA graph.

A step of a dozen layers is two hundred small kernels, and starting them costs a GPU more than running them. Captured once per
batch shape, they start together. Everything a step reads lies in fixed places: the tokens, the position, the images' keys and
values, and what the rows have written, as long as the longest text may get; what lies beyond the position is hidden by a mask.
Knows nothing of how a token is chosen. On a CPU the same step runs without a graph, for tests.

Axes at the end of tensor names: B images, R rows (texts, image by image), L longest text, S image tokens, V vocabulary.
"""

from collections import OrderedDict
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from capfilt.config.architectures.parts import BertConfig
from capfilt.modeling.layers import KeysValues, kv_parts
from capfilt.modeling.text import LanguageHead, TextTower

LENGTH_BUCKET = 8
"""Tokens: the rows' memory is a multiple of it, so that few shapes occur and masked attention kernels find their alignment."""
WARM_UPS = 3
"""Runs before a capture, in which libraries choose their kernels and take their memory."""
Shape = tuple[int, int, int, int]
"""Images, rows per image, longest text (rounded up), image tokens."""


class StaticStep:
    """One shape's buffers and, on a GPU, the graph over them."""

    def __init__(self, tower: TextTower, head: LanguageHead, text: BertConfig, shape: Shape, like: Tensor) -> None:
        images, rows_per_image, length, image_tokens = self.shape = shape
        rows, width = images * rows_per_image, text.width // text.heads
        self._tower, self._head = tower, head
        self.ids_R = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.position_1 = torch.zeros(1, dtype=torch.int64, device=like.device)
        # As the linear map that makes them writes them, so that it can write them here.
        self.image_memory = [like.new_zeros(images, image_tokens, 2 * text.width) for _ in range(text.layers)]
        self.image_kv: list[KeysValues] = [kv_parts(memory, text.heads) for memory in self.image_memory]
        self.own: list[KeysValues] = [_pair(like, rows, text.heads, length, width) for _ in range(text.layers)]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._scores_RV: Tensor | None = None

    def run(self, ids_R: Tensor, position: int) -> Tensor:
        """Scores [R, V] of the token after `ids_R`, which stand at `position`; good until the next run."""
        self.ids_R.copy_(ids_R)
        self.position_1.fill_(position)
        if not self.ids_R.is_cuda:
            return self._once()
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        assert self._scores_RV is not None
        self._graph.replay()
        return self._scores_RV

    def _once(self) -> Tensor:
        states = self._tower.step_at(self.ids_R[:, None], self.image_kv, self.own, self.position_1)
        scores_RV: Tensor = self._head(states[:, 0])
        return scores_RV

    def _capture(self) -> None:
        """Warm up beside the current stream, then record. A run may be repeated: it writes the same again."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UPS):
                self._once()
        torch.cuda.current_stream().wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread may be copying pixels meanwhile, which a capture forbids unless told that it is its own thread's alone.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._scores_RV = self._once()


class StaticCache:
    """`capfilt.modeling.decoding.Cache` over a static step."""

    def __init__(self, steps: "StaticSteps", step: StaticStep, length: int) -> None:
        self._steps = steps
        self._step = step
        self.length = length

    def run(self, ids_R: Tensor) -> Tensor:
        scores_RV = self._step.run(ids_R, self.length)
        self.length += 1
        return scores_RV

    def reorder(self, rows_R: Tensor) -> None:
        """Row r continues what row `rows_R[r]` wrote; both belong to the same image."""
        for pair in self._step.own:
            for x in pair:
                x.copy_(x.index_select(0, rows_R))

    def keep(self, images_B: Tensor, rows_R: Tensor) -> None:
        """Go on with these images and rows, in the buffers of the smaller shape."""
        old = self._step
        self._step = self._steps.of((len(images_B), *old.shape[1:]), old.own[0][0])
        for mine, theirs in zip(self._step.image_memory, old.image_memory, strict=True):
            torch.index_select(theirs, 0, images_B, out=mine)
        for (k, v), (k_, v_) in zip(self._step.own, old.own, strict=True):
            torch.index_select(k_, 0, rows_R, out=k)
            torch.index_select(v_, 0, rows_R, out=v)


class StaticSteps:
    """The steps of one model: those of the batch at hand and its halves. A larger or unlike batch takes their place."""

    def __init__(self, tower: TextTower, head: LanguageHead, text: BertConfig) -> None:
        self.tower, self._head, self._text = tower, head, text
        self._made: OrderedDict[Shape, StaticStep] = OrderedDict()
        self._weights: object = None

    def start(self, images: int, rows_per_image: int, max_length: int, image_tokens: int, like: Tensor) -> StaticStep:
        """The step for a new batch. Graphs know their weights by address, so moved or cast weights need new ones."""
        length = -(-max_length // LENGTH_BUCKET) * LENGTH_BUCKET
        shape = (images, rows_per_image, length, image_tokens)
        weights = (self._head.vocabulary.weight.data_ptr(), like.dtype, like.device)
        if weights != self._weights or next(iter(self._made), shape) != shape:
            self._made.clear()
        self._weights = weights
        return self.of(shape, like)

    def of(self, shape: Shape, like: Tensor) -> StaticStep:
        if shape not in self._made:
            self._made[shape] = StaticStep(self.tower, self._head, self._text, shape, like)
        return self._made[shape]


_STEPS: "WeakKeyDictionary[nn.Module, StaticSteps]" = WeakKeyDictionary()


def static_steps(model: nn.Module, tower: TextTower, head: LanguageHead, text: BertConfig) -> StaticSteps:
    """The steps of `model`, whose parts the others are, as long as it lives; kept apart, so that it can be copied and saved."""
    found = _STEPS.get(model)
    if found is None or found.tower is not tower:
        found = _STEPS[model] = StaticSteps(tower, head, text)
    return found


def _pair(like: Tensor, *shape: int) -> KeysValues:
    """Zeros, not whatever memory holds: a masked value is multiplied by 0, and 0 times NaN is NaN."""
    return like.new_zeros(shape), like.new_zeros(shape)
