"""Uses downstream of one trained model: each task of an evaluation file, measured.

Says which function does a task; knows nothing of how.
"""

import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_never

import torch

from capfilt.config.downstream import (
    AnyTask,
    CaptioningTask,
    EntailmentTask,
    Evaluation,
    FittedTask,
    FrozenClassifierTask,
    RetrievalTask,
    TwoImagesTask,
    VideoClassificationTask,
    VideoRetrievalTask,
    VqaTask,
    ZeroShotTask,
)
from capfilt.errors import ConfigError, Interrupted, Terminated
from capfilt.evaluation.tasks.able import check
from capfilt.evaluation.tasks.base import Asked, Measured
from capfilt.evaluation.tasks.captioning import captioning
from capfilt.evaluation.tasks.frozen import frozen_classifier, video_classification
from capfilt.evaluation.tasks.joint import entailment, two_images
from capfilt.evaluation.tasks.record import Record
from capfilt.evaluation.tasks.retrieval import retrieval, video_retrieval
from capfilt.evaluation.tasks.vqa import vqa
from capfilt.evaluation.tasks.zero_shot import zero_shot
from capfilt.modeling.families import Loaded, load_network
from capfilt.run.progress import RunProgress, SilentProgress
from capfilt.run.signals import received
from capfilt.training.loop import StepReport

__all__ = ["evaluate_tasks", "measure"]


def evaluate_tasks(
    config: Evaluation, *, out: str | None = None, is_fresh: bool = False, progress: RunProgress | None = None
) -> Measured:
    """Every task of the file, in order; the model on disk stays as it is.

    Args:
        out: A JSON file that gets each result as it is there. Tasks whose results it holds are not done again.
        is_fresh: They are.

    Returns:
        JSON values: `model`, `family`, `settings`, and per task's name what was measured.

    Raises:
        ConfigError: If the model's family cannot do a task, or the device is not there. Like an InputError, before any work.
        InputError: If a file is missing, empty, or lacks a column or a value.
        CheckpointError: If the model cannot be read.
        OutputError: If `out` cannot be written.
        Interrupted: After Ctrl-C (Terminated: after SIGTERM); tasks that were done are in `out`.
    """
    progress = progress or SilentProgress()
    _check_device(config.device)
    done = 0
    try:
        loaded = load_network(config.model)
        for task in config.tasks:
            check(task, loaded)
        record = Record(config, loaded, out, is_fresh=is_fresh)
        loaded.model.to(config.device)
        for task in config.tasks:
            if record.done(task):
                progress.note(f"{task.label}: done already; --fresh measures it again")
            else:
                record.keep(task, _measured(task, config, loaded, progress))
            done += 1
    except KeyboardInterrupt:
        kind = Terminated if received() == signal.SIGTERM else Interrupted
        kept = (
            f"{done} of {len(config.tasks)} tasks are in {out}; the same command goes on"
            if out
            else "nothing is kept without --out"
        )
        raise kind(f"evaluate: stopped in {config.tasks[done].label}; {kept}") from None
    return record.told


def _measured(task: AnyTask, config: Evaluation, loaded: Loaded, progress: RunProgress) -> Measured:
    steps = task.fit.steps if isinstance(task, FittedTask) else 0
    with (
        TemporaryDirectory(prefix="capfilt-evaluate-") as work,
        progress.stage(task.label, steps, "steps" if steps else "") as stage,
    ):
        before = 0

        def on_step(report: StepReport) -> None:
            nonlocal before
            stage.advance(report.step - before, loss=f"{report.loss:.3f}")
            before = report.step

        asked = Asked(loaded, Path(work), config.device, config.seed, config.bootstrap, config.batch_size, on_step)
        return measure(task, asked)


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ConfigError(f"device: expected cpu, cuda or cuda:N, found {device!r}. Correct it") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: expected a GPU that torch can use, found none. Write device: cpu")


def measure(task: AnyTask, asked: Asked) -> Measured:
    """One task."""
    match task:
        case RetrievalTask():
            return retrieval(task, asked)
        case CaptioningTask():
            return captioning(task, asked)
        case VqaTask():
            return vqa(task, asked)
        case EntailmentTask():
            return entailment(task, asked)
        case TwoImagesTask():
            return two_images(task, asked)
        case ZeroShotTask():
            return zero_shot(task, asked)
        case FrozenClassifierTask():
            return frozen_classifier(task, asked)
        case VideoRetrievalTask():
            return video_retrieval(task, asked)
        case VideoClassificationTask():
            return video_classification(task, asked)
        case _:
            assert_never(task)
