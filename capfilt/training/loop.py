"""The training loop: asks the network for its losses by name, adds them up, steps; knows no model names.

A stopped loop goes on from its checkpoint and ends with the same bits, given the same threads and versions.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from capfilt.config.train import OptimConfig
from capfilt.errors import ConfigError
from capfilt.identity import stage_seed
from capfilt.modeling.batch import Batch
from capfilt.modeling.ranks import Ranks
from capfilt.training.checkpoint import Checkpoints
from capfilt.training.conditions import conditions
from capfilt.training.log import Log, Since
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
    with conditions(module, config, seed, device):
        optimiser = build_optimiser(module.parameters(), config)
        since = Since()
        done = 0
        state = checkpoints.load()
        if state is not None:
            done = state["step"]
            _restore(state, module, optimiser, device, ranks)
            since = Since(state["since"], state["since_steps"])
        log = Log(work / "log.jsonl", done) if ranks.rank == 0 else None
        _loop(module, batches, config, optimiser, since, done, checkpoints, log, device, steps_per_ramp, on_step, ranks)


def _loop(
    module: Any,
    batches: Batches,
    config: OptimConfig,
    optimiser: torch.optim.Optimizer,
    since: Since,
    done: int,
    checkpoints: Checkpoints,
    log: Log | None,
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
