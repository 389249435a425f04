"""One training on several workers: processes of this machine that meet over a file and train together.

A launcher starts the same training in every worker, as `run_task` does it; Ray's stands with Ray. Knows no model names.
"""

import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from capfilt.errors import CapfiltError, ConfigError

MEETING = "meeting"
PATIENCE = timedelta(hours=1)  # one worker reads its pairs longer than another
Tell = Callable[[Any], None]


@dataclass(frozen=True)
class Task:
    """A training of `capfilt.training.recipes` by its name, and its arguments without those of the worker."""

    recipe: str
    arguments: Mapping[str, Any]
    workers: int
    device: str
    work: Path


class Launch(Protocol):
    """Runs the task in all workers and returns when all are done; `on_step` hears the first worker.

    Raises what a worker raised.
    """

    def __call__(self, task: Task, on_step: Tell) -> None: ...


def run_task(task: Task, rank: int, device: str, on_step: Tell) -> None:
    """The part of one worker; the process group is there already."""
    from capfilt.modeling.ranks import Ranks
    from capfilt.training import recipes

    recipe = getattr(recipes, task.recipe)
    recipe(**task.arguments, device=device, on_step=on_step, ranks=Ranks(rank, task.workers))


def backend_of(device: str) -> str:
    return "nccl" if device == "cuda" else "gloo"


def spawn(task: Task, on_step: Tell) -> None:
    """Processes of this machine; a worker on GPUs has the GPU of its number.

    Raises:
        ConfigError: If there are fewer GPUs than workers.
        CapfiltError: If a worker ends without saying why (killed, out of memory).
    """
    import torch
    import torch.multiprocessing as multiprocessing

    if task.device == "cuda" and torch.cuda.device_count() < task.workers:
        raise ConfigError(
            f"resources.train.workers: expected at most {torch.cuda.device_count()}, the GPUs of this machine, found "
            f"{task.workers}. Lower it, or use resources.executor: ray with a cluster"
        )
    task.work.mkdir(parents=True, exist_ok=True)
    (task.work / MEETING).unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    workers = [context.Process(target=_worker, args=(task, rank, told), daemon=True) for rank in range(task.workers)]
    try:
        for worker in workers:
            worker.start()
        _listen(workers, told, on_step)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
            worker.join()
        (task.work / MEETING).unlink(missing_ok=True)


def _listen(workers: list[Any], told: Any, on_step: Tell) -> None:
    done = 0
    while done < len(workers):
        try:
            kind, content = told.get(timeout=0.5)
        except queue.Empty:
            ended = [worker.exitcode for worker in workers if worker.exitcode not in (None, 0)]
            if ended and told.empty():
                raise CapfiltError(
                    f"training: expected {len(workers)} workers to train to the end, found one that ended with code {ended[0]}; "
                    "if it was killed for memory, lower batch_size or set accumulate_steps. The same command continues"
                ) from None
            continue
        match kind:
            case "step":
                on_step(content)
            case "failed":
                raise content
            case _:
                done += 1


def _worker(task: Task, rank: int, told: Any) -> None:
    import torch
    import torch.distributed as dist

    threading.Thread(target=_end_with_parent, daemon=True).start()
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine; its name need not resolve
    device = f"cuda:{rank}" if task.device == "cuda" else task.device
    if task.device == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // task.workers))
    try:
        meeting = f"file://{(task.work / MEETING).absolute()}"
        dist.init_process_group(
            backend_of(task.device), init_method=meeting, rank=rank, world_size=task.workers, timeout=PATIENCE
        )
        run_task(task, rank, device, lambda report: told.put(("step", report)))
    except CapfiltError as error:
        told.put(("failed", error))
    except (
        Exception
    ) as error:  # whatever it was, the main process must hear of it: another worker may only know that this one left
        told.put(("failed", CapfiltError(f"training, worker {rank}: {type(error).__name__}: {error}")))
    else:
        told.put(("done", rank))
        dist.destroy_process_group()


def _end_with_parent() -> None:
    """A worker whose main process was killed has nobody to train for."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
