"""The training loop: asks the network for its losses by name, adds them up, steps; knows no model names.

A stopped loop goes on from its checkpoint and ends with the same bits, given the same threads and versions.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from capfilt.config.train import OptimConfig
from capfilt.errors import CapfiltError, ConfigError
from capfilt.identity import stage_seed
from capfilt.modeling.batch import Batch
from capfilt.modeling.ranks import Ranks
from capfilt.training.activations import checkpointed
from capfilt.training.checkpoint import Checkpoints
from capfilt.training.optim import build_optimiser, learning_rate

LOG_EVERY_STEPS = 10


class Batches(Protocol):
    """Step -> batch, a pure function: the step is the data position. Where a batch is computed in parts, also
    `part(step, part, parts)`: every `parts`-th pair of it from pair `part` on."""

    steps_per_epoch: int
    pairs: int
    """Per batch."""

    def __call__(self, step: int) -> Batch: ...


class Trainable(Protocol):
    """An `nn.Module` that knows its losses.

    One that can compute a batch in parts also has `set_progress(step, steps_per_ramp, part)` and `terms(batch)`: how many terms a
    loss is the mean of, by name, where that is not the same for parts of equal size.
    """

    def losses(self, batch: Batch) -> Mapping[str, Tensor]: ...
    def set_progress(self, step: int, steps_per_ramp: int) -> None: ...
    def to(self, device: str) -> Self: ...


@dataclass(frozen=True)
class StepReport:
    """How far the training is. Losses are means over the steps since the last report."""

    step: int
    """Steps done, 1 … `steps`."""
    steps: int
    lr: float
    loss: float
    losses: dict[str, float]
    pairs_per_s: float


def train(
    module: Trainable,
    batches: Batches,
    config: OptimConfig,
    *,
    work: Path,
    seed: int,
    device: str = "cpu",
    steps_per_ramp: int = 0,
    mark: str = "",
    on_step: Callable[[StepReport], None] = lambda report: None,
    ranks: Ranks = Ranks(),
) -> None:
    """Train `module` in place for `config.steps` steps, from the newest checkpoint in `work` if there is one.

    Args:
        module: Already on `device`.
        work: Gets `log.jsonl` (a line each 10 steps) and `checkpoint/`, which stays until its owner removes it.
        seed: Of torch's global generators (dropout); they are put back afterwards.
        steps_per_ramp: What `module.set_progress` is told.
        mark: Settings and data as one string; checkpoints with another are not continued.
        on_step: Called on the first worker.
        ranks: This worker among several; all are given the same, and end with the same weights.

    Raises:
        ConfigError: If `module` cannot compute a batch in parts and is asked to.
        CapfiltError: If a loss is no finite number; checked every 10 steps and before each checkpoint.
    """
    assert isinstance(module, nn.Module)
    checkpoints = Checkpoints(work / "checkpoint", mark)
    if config.accumulate_steps * ranks.size > 1 and not (hasattr(module, "terms") and hasattr(batches, "part")):
        raise ConfigError(
            f"accumulate_steps {config.accumulate_steps}, workers {ranks.size}: expected 1 of each for {type(module).__name__}, "
            "which learns from whole batches only. Write 1"
        )
    seed = seed if ranks.rank == 0 else stage_seed(seed, f"rank {ranks.rank}")
    with (
        _threads(config.threads),
        _deterministic(device),
        _seeded(seed, device),
        _training_mode(module),
        checkpointed(module, config.checkpoint_activations),
    ):
        optimiser = build_optimiser(module.parameters(), config)
        since = _Since()
        done = 0
        state = checkpoints.load()
        if state is not None:
            done = state["step"]
            _restore(state, module, optimiser, device, ranks)
            since = _Since(state["since"], state["since_steps"])
        log = _Log(work / "log.jsonl", done) if ranks.rank == 0 else None
        _loop(module, batches, config, optimiser, since, done, checkpoints, log, device, steps_per_ramp, on_step, ranks)


def _loop(
    module: Any,
    batches: Batches,
    config: OptimConfig,
    optimiser: torch.optim.Optimizer,
    since: "_Since",
    done: int,
    checkpoints: Checkpoints,
    log: "_Log | None",
    device: str,
    steps_per_ramp: int,
    on_step: Callable[[StepReport], None],
    ranks: Ranks,
) -> None:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    started, started_at = time.perf_counter(), done
    for step in range(done, config.steps):
        lr = learning_rate(step, config, batches.steps_per_epoch)
        for group in optimiser.param_groups:
            group["lr"] = lr
        optimiser.zero_grad(set_to_none=True)
        if config.accumulate_steps * ranks.size == 1:
            module.set_progress(step, steps_per_ramp)
            found = _backward(module, batches(step), config, device)
        else:
            found = _backward_in_parts(module, batches, step, steps_per_ramp, config, device, ranks)
            ranks.sum_in_place([p.grad for p in parameters if p.grad is not None])
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimiser.step()
        since.add(found)

        step_done = step + 1
        is_logged = step_done % LOG_EVERY_STEPS == 0 or step_done == config.steps
        is_saved = step_done % config.checkpoint_every_steps == 0 and step_done < config.steps
        if is_logged or is_saved:
            means = since.means(step_done)
        if is_logged and log is not None:
            now = time.perf_counter()
            rate = batches.pairs * (step_done - started_at) / max(1e-9, now - started)
            started, started_at = now, step_done
            log.write({"step": step_done, "lr": lr, **means, "pairs_per_s": rate})
            on_step(StepReport(step_done, config.steps, lr, means["loss"], {k: v for k, v in means.items() if k != "loss"}, rate))
        if is_logged:
            since.clear()
        if is_saved:
            own = ranks.objects(_own_chance(module, device))
            if ranks.rank == 0:
                checkpoints.save(
                    step_done,
                    {
                        "module": module.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "ranks": own,
                        "since": since.sums,
                        "since_steps": since.steps,
                    },
                )
            ranks.wait()  # nobody goes on, and fails, while the checkpoint is on its way
    if log is not None:
        log.close()


def _backward(
    module: Any, batch: Batch, config: OptimConfig, device: str, factors: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Adds the gradient of one batch, or of a part whose losses count by `factors`; gives the losses, and `loss`, their sum."""
    weights = config.losses.weights()
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=config.dtype == "bfloat16"):
        losses: dict[str, Tensor] = module.losses(batch)
    if factors is not None:
        losses = {name: factors[name] * loss for name, loss in losses.items()}
    total = sum((weights[name] * loss for name, loss in losses.items()), start=torch.zeros((), device=device))
    total.backward()  # type: ignore[no-untyped-call]
    return {"loss": total.detach(), **{name: loss.detach() for name, loss in losses.items()}}


def _backward_in_parts(
    module: Any, batches: Any, step: int, steps_per_ramp: int, config: OptimConfig, device: str, ranks: Ranks
) -> dict[str, Tensor]:
    """As `_backward`, of this worker's parts of the batch; the losses are those of all workers.

    A part's loss counts by its share of the terms (LM: learnt tokens) of the whole batch, so that means over terms stay that.
    """
    count = config.accumulate_steps
    parts = [batches.part(step, part + count * ranks.rank, count * ranks.size) for part in range(count)]
    terms = [module.terms(batch) for batch in parts]
    totals = {name: torch.tensor(float(sum(of[name] for of in terms)), device=device) for name in terms[0]}
    ranks.sum_in_place(list(totals.values()))
    found: dict[str, Tensor] = {}
    for part, (batch, own) in enumerate(zip(parts, terms, strict=True)):
        factors = dict.fromkeys(config.losses.weights(), 1 / (count * ranks.size))
        factors |= {name: own[name] / max(1.0, float(totals[name])) for name in own}
        module.set_progress(step, steps_per_ramp, part)
        for name, loss in _backward(module, batch, config, device, factors).items():
            found[name] = found[name] + loss if name in found else loss
    ranks.sum_in_place(list(found.values()))
    return found


def _own_chance(module: nn.Module, device: str) -> dict[str, Any]:
    """The states of the generators, which each worker has of its own."""
    of_module = module.get_extra_state() if type(module).get_extra_state is not nn.Module.get_extra_state else None
    cuda = torch.cuda.get_rng_state(device) if torch.device(device).type == "cuda" else None
    return {"rng": torch.get_rng_state(), "cuda_rng": cuda, "module": of_module}


def _restore(state: dict[str, Any], module: nn.Module, optimiser: torch.optim.Optimizer, device: str, ranks: Ranks) -> None:
    module.load_state_dict(state["module"])
    optimiser.load_state_dict(state["optimiser"])
    own = state["ranks"][ranks.rank]
    torch.set_rng_state(own["rng"])
    if own["cuda_rng"] is not None and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(own["cuda_rng"], device)
    if own["module"] is not None:
        module.set_extra_state(own["module"])


class _Since:
    """Sums of the losses since the last log line; a single inf or nan stays visible in them, so no step needs a check."""

    def __init__(self, sums: dict[str, Tensor] | None = None, steps: int = 0) -> None:
        self.sums = dict(sums or {})
        self.steps = steps

    def add(self, losses: Mapping[str, Tensor]) -> None:
        for name, loss in losses.items():
            value = loss.detach().float()
            before = self.sums.get(name)
            self.sums[name] = value if before is None else before.to(value.device) + value
        self.steps += 1

    def means(self, step: int) -> dict[str, float]:
        found = {name: float(total) / self.steps for name, total in self.sums.items()}
        wrong = [name for name, value in found.items() if not math.isfinite(value)]
        if wrong:
            raise CapfiltError(
                f"expected finite losses, found {', '.join(f'{name} = {found[name]}' for name in wrong)} between steps "
                f"{step - self.steps + 1} and {step}; lower lr, lengthen warmup_steps or set clip_norm: 1.0"
            )
        return found

    def clear(self) -> None:
        self.sums, self.steps = {}, 0


class _Log:
    """One JSON object per line; on resume, lines after the checkpoint's step go, so that no step stands twice."""

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, float]) -> None:
        self._file.write(json.dumps({key: round(value, 8) for key, value in line.items()}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    """Whole lines; a half-written last one belongs to a step that will be done again."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """On the CPU, sums in a fixed order: by default two threads add up the gradient of an indexed tensor as they come.

    On a GPU the promise is weaker and the price higher: left as it is.
    """
    settings: Any = torch.utils.deterministic  # torch's stubs leave its one attribute out
    before, fills = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    if torch.device(device).type == "cpu":
        torch.use_deterministic_algorithms(True)
        settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fills


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def _training_mode(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.train()
    try:
        yield
    finally:
        module.train(was_training)
