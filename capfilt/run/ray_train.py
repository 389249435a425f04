"""One training on several workers through Ray Train, here or on a cluster. Beside ray_executor, the only file that imports Ray.

Gives the weights that processes of one machine give (`training.workers.spawn`). Ray Train places the workers and joins them;
checkpoints, resuming and the model's folder stay the training's own, so every node must see the run folder under the same path.
"""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from capfilt import errors
from capfilt.config.machine import Resources
from capfilt.errors import CapfiltError
from capfilt.run.ray_executor import RayExecutor
from capfilt.training.workers import MEETING, PATIENCE, Task, Tell, backend_of, run_task

LISTEN_EVERY_S = 0.5
SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths are the driver's
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


class RayLaunch:
    """A launcher of `training.workers`: each worker is an actor with `train.gpus` GPUs."""

    def __init__(self, resources: Resources, output: str) -> None:
        self._resources = resources
        self._output = output

    def __call__(self, task: Task, on_step: Tell) -> None:
        """
        Raises:
            CapfiltError: What a worker raised, in its own class; or that one ended without saying why, or sees no run folder.
        """
        os.environ.update({name: value for name, value in SETTINGS.items() if name not in os.environ})
        if self._resources.ray.address == "local" and sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine; its name need not resolve
        task = replace(task, work=task.work.absolute(), arguments={**task.arguments, **_absolute(task)})
        task.work.mkdir(parents=True, exist_ok=True)
        (task.work / MEETING).write_text("a worker that does not see this file does not see the run folder\n", encoding="utf-8")
        # Its memory is the training's: where a pass over chunks has Ray up, this joins it.
        executor = RayExecutor(self._resources, self._output)
        try:
            executor.wait()
            _fit(task, self._resources, on_step)
        finally:
            executor.close()
            (task.work / MEETING).unlink(missing_ok=True)
            shutil.rmtree(task.work / "ray", ignore_errors=True)


def _absolute(task: Task) -> dict[str, Any]:
    return {name: value.absolute() for name, value in task.arguments.items() if isinstance(value, Path)}


def _fit(task: Task, resources: Resources, on_step: Tell) -> None:
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ear = ray.remote(num_cpus=0)(Ear).remote()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": task, "ear": ear, "cwd": os.getcwd()},
        torch_config=TorchConfig(backend=backend_of(task.device), timeout_s=int(PATIENCE.total_seconds())),
        scaling_config=ScalingConfig(
            num_workers=task.workers, use_gpu=task.device == "cuda", resources_per_worker=share_of(task, resources)
        ),
        run_config=RunConfig(name="train", storage_path=str(task.work / "ray")),
    )
    ended = _InBackground(trainer.fit)
    try:
        while ended.is_alive():
            ended.join(LISTEN_EVERY_S)
            hear(ray.get(ear.news.remote()), on_step)
        hear(ray.get(ear.news.remote()), on_step)
    except BaseException:
        with contextlib.suppress(Exception):
            ear.hang_up.remote()  # the first worker ends at its next report; with Ray, if it is ours, all of them now
        raise
    if ended.problem is not None:
        raise CapfiltError(
            f"training: expected {task.workers} workers to train to the end, found one that ended without saying why "
            f"({_brief(ended.problem)}); if it was killed for memory, lower batch_size or set accumulate_steps. The same command "
            "continues"
        ) from None


def hear(news: list[tuple[str, Any]], on_step: Tell) -> None:
    """Passes reports on; what a worker raised is raised in its own class."""
    for kind, content in news:
        if kind == "failed":
            name, message = content
            found: type[CapfiltError] = getattr(errors, name, CapfiltError)
            raise found(message)
        on_step(content)


def share_of(task: Task, resources: Resources) -> dict[str, float]:
    """CPUs and GPUs of one worker: never more than would ever be free."""
    is_local = resources.ray.address == "local"
    cpus = min(1.0, int(100 * resources.ray.logical_cpus / task.workers) / 100) if is_local else 1.0
    return {"CPU": cpus} | ({"GPU": resources.train.gpus} if task.device == "cuda" else {})


class Ear:
    """What the workers say to the driver: an actor, since only reports of all workers reach it through Ray Train."""

    def __init__(self) -> None:
        self._news: list[tuple[str, Any]] = []
        self._is_listening = True

    def tell(self, kind: str, content: Any) -> bool:
        """Whether anybody still listens."""
        self._news.append((kind, content))
        return self._is_listening

    def news(self) -> list[tuple[str, Any]]:
        news, self._news = self._news, []
        return news

    def hang_up(self) -> None:
        self._is_listening = False


def _work(given: dict[str, Any]) -> None:
    """The part of one worker; its process group is there already."""
    import ray
    import torch
    from ray.train import get_context
    from ray.train.torch import get_device

    task, ear = given["task"], given["ear"]
    rank = get_context().get_world_rank()

    def tell(report: Any) -> None:
        if not ray.get(ear.tell.remote("step", report)):
            raise CapfiltError("training: the driver has gone")

    def fail(error: CapfiltError) -> None:
        ray.get(ear.tell.remote("failed", (type(error).__name__, str(error))))

    try:
        look_around(task, given["cwd"])
        if task.device == "cuda":
            device = str(get_device())
        else:
            device = "cpu"
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // get_context().get_local_world_size()))
        run_task(task, rank, device, tell)
    except CapfiltError as error:
        fail(error)
        raise
    except Exception as error:  # whatever it was, the driver must hear of it: another worker may only know that this one left
        fail(CapfiltError(f"training, worker {rank}: {type(error).__name__}: {error}"))
        raise


def look_around(task: Task, cwd: str) -> None:
    """Go where the driver is.

    Raises:
        CapfiltError: If this node does not see the run folder.
    """
    if not (task.work / MEETING).is_file():
        raise CapfiltError(
            f"training: expected the run folder on storage that every node sees under the same path, found no {task.work} on "
            f"{os.uname().nodename}. Put `output` there, or train with resources.executor: local or train.workers: 1"
        )
    if os.path.isdir(cwd):
        os.chdir(cwd)


class _InBackground(threading.Thread):
    """In the main thread Ray Train would take over Ctrl-C."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(name="capfilt-ray-train", daemon=True)
        self._todo = work
        self.problem: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._todo()
        except BaseException as problem:
            self.problem = problem


def _brief(problem: BaseException) -> str:
    lines = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {lines[-1] if lines else ''}"[:300]
