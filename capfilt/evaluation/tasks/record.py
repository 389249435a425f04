"""What was measured, kept in a file task by task, so that the same command goes on where it was stopped.

A task counts as done where its settings, its data and the model's weights are as they were. Knows nothing of single tasks.
"""

import hashlib
import json
from typing import Any

import fsspec
import torch

from capfilt import __version__
from capfilt.config.downstream import AnyTask, Evaluation, FittedTask
from capfilt.errors import ConfigError, InputError
from capfilt.evaluation.run import rounded
from capfilt.evaluation.tasks.base import Measured
from capfilt.identity import fingerprint
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.families import Loaded
from capfilt.run import files

BLOCK = 1 << 20
MARK = "made_of"
"""Key of a task's result: the hash of all that it was made of."""


class Record:
    """The result as it grows.

    Args:
        path: A JSON file, or an fsspec address; None keeps nothing.
        is_fresh: What the file holds does not count, and is written over.

    Raises:
        ConfigError: If the file holds the results of another model.
        InputError: If it is something else than results.
    """

    def __init__(self, config: Evaluation, loaded: Loaded, path: str | None, *, is_fresh: bool = False) -> None:
        self._config, self._path = config, path
        self._weights = _weights(loaded) if path is not None else ""
        self._known: dict[str, Measured] = {}
        if path is not None and not is_fresh:
            self._known, weights = _read(path, config.model)
            if weights != self._weights:  # of other tasks nothing is known: what is in the file was another network's
                named = {task.label for task in config.tasks}
                self._known = {label: found for label, found in self._known.items() if label in named}
        self._tasks: dict[str, Measured] = {}
        self._family = type(loaded.model).__name__
        if path is not None:
            self._write()  # whether that is allowed shows now, not after the work

    @property
    def told(self) -> Measured:
        """JSON values: `model`, `family`, `capfilt`, `settings`, and `tasks` by name; of what is kept, `weights` (a hash)."""
        found: Measured = rounded(
            {
                "model": self._config.model,
                "family": self._family,
                "capfilt": __version__,
                **({"weights": self._weights} if self._path is not None else {}),
                "settings": self._config.model_dump(mode="json", exclude={"model"}),
                "tasks": self._tasks,
            }
        )
        return found

    def done(self, task: AnyTask) -> bool:
        """Whether the file holds the task's result; it then is part of what is told."""
        known = self._known.get(task.label)
        if known is None or known.get(MARK) != self._made_of(task):
            return False
        self._tasks[task.label] = known
        self._write()
        return True

    def keep(self, task: AnyTask, found: Measured) -> None:
        self._tasks[task.label] = {"kind": task.kind, **found}
        if self._path is not None:
            self._tasks[task.label][MARK] = self._made_of(task)
            self._write()

    def _write(self) -> None:
        assert self._path is not None
        # What is known and not yet reached, or of other tasks, stays in the file: a stop costs nothing, and neither do they.
        whole = self.told | {"tasks": self._known | self.told["tasks"]}
        files.put(self._path, (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode())

    def _made_of(self, task: AnyTask) -> str:
        paths = [task.train, task.data] if isinstance(task, FittedTask) else [task.data]
        return fingerprint(
            {
                "task": task.model_dump(mode="json", exclude={"data", "train"}),
                "data": [_content(path) for path in paths],
                "weights": self._weights,
                "seed": self._config.seed,
                "bootstrap": self._config.bootstrap,
                "versions": [__version__, torch.__version__],
            }
        )


def _read(path: str, model: str) -> tuple[dict[str, Measured], str | None]:
    """Results by task, and of which weights."""
    try:
        with fsspec.open(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return {}, None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--out {path}: expected a file to write, found {error}. Name another file") from None
    try:
        found: Any = json.loads(text)
        tasks: dict[str, Measured] = dict(found["tasks"])
        owner, weights = found["model"], found.get("weights")
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"--out {path}: expected what capfilt evaluate wrote, found another file. Name another, or --fresh writes over it"
        ) from None
    if owner != model:
        raise ConfigError(
            f"--out {path}: expected the results of {model}, found those of {owner}. Name another file, or --fresh writes over it"
        )
    return tasks, weights


def _weights(loaded: Loaded) -> str:
    """Hash of the network's tensors and architecture, a BLIP-2's language model with it."""
    model = loaded.model
    state = dict(model.state_dict())
    if isinstance(model, Blip2):
        state |= {f"language.{name}": tensor for name, tensor in model.language.model.state_dict().items()}
    digest = hashlib.sha256(loaded.architecture.model_dump_json().encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _content(path: str) -> str:
    digest = hashlib.sha256()
    with fsspec.open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
