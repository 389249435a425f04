"""Uses downstream of one trained model: each task of an evaluation file, measured.

Says which function does a task; knows nothing of how.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import assert_never

from capfilt import __version__
from capfilt.config.downstream import (
    AnyTask,
    CaptioningTask,
    EntailmentTask,
    Evaluation,
    FrozenClassifierTask,
    RetrievalTask,
    TwoImagesTask,
    VideoClassificationTask,
    VideoRetrievalTask,
    VqaTask,
    ZeroShotTask,
)
from capfilt.evaluation.run import rounded
from capfilt.evaluation.tasks.base import Asked, Measured
from capfilt.evaluation.tasks.captioning import captioning
from capfilt.evaluation.tasks.frozen import frozen_classifier, video_classification
from capfilt.evaluation.tasks.joint import entailment, two_images
from capfilt.evaluation.tasks.retrieval import retrieval, video_retrieval
from capfilt.evaluation.tasks.vqa import vqa
from capfilt.evaluation.tasks.zero_shot import zero_shot
from capfilt.modeling.families import load_network

__all__ = ["evaluate_tasks", "measure"]


def evaluate_tasks(config: Evaluation, *, on_task: Callable[[str], None] = lambda name: None) -> Measured:
    """Every task of the file, in order; the model on disk stays as it is.

    Returns:
        JSON values: `model`, `family`, `settings`, and per task's name what was measured.

    Raises:
        ConfigError: If the model's family cannot do a task.
        InputError: If a file is missing, empty, or lacks a column.
        CheckpointError: If the model cannot be read.
    """
    loaded = load_network(config.model)
    loaded.model.to(config.device)
    found: Measured = {}
    for task in config.tasks:
        on_task(task.label)
        with TemporaryDirectory(prefix="capfilt-evaluate-") as work:
            asked = Asked(loaded, Path(work), config.device, config.seed, config.bootstrap, config.batch_size)
            found[task.label] = {"kind": task.kind, **measure(task, asked)}
    told: Measured = rounded(
        {
            "model": config.model,
            "family": type(loaded.model).__name__,
            "capfilt": __version__,
            "settings": config.model_dump(mode="json", exclude={"model"}),
            "tasks": found,
        }
    )
    return told


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
