"""Checkpoints that appear whole: written beside, synced, renamed; the last two are kept.

Knows nothing of what is in them, save a step and a mark that says to which training they belong.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from capfilt.errors import CheckpointError
from capfilt.writers.whole import sync

KEPT = 2
State = dict[str, Any]


class Checkpoints:
    """A folder of `step-00000100.pt`.

    Args:
        mark: Settings and data of the training, as one string; checkpoints of another are passed over.
    """

    def __init__(self, folder: Path, mark: str = "") -> None:
        self.folder = folder
        self.mark = mark

    def save(self, step: int, state: State) -> None:
        """Write one; older ones than the last two go, and what a kill left half written.

        Raises:
            OSError: Of a full disk, perhaps as the context of what torch makes of it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:08d}.pt"
        beside = path.with_suffix(".part")
        try:
            with beside.open("wb") as file:
                torch.save({"step": step, "mark": self.mark, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)  # on a full disk, half a checkpoint is room that others need
            raise
        sync(self.folder)
        for old in (*self._files()[KEPT:], *self.folder.glob("step-*.part")):
            old.unlink(missing_ok=True)

    def load(self) -> State | None:
        """The newest of this training, tensors on the CPU; None where there is none.

        Only tensors and plain values are read, so that a file can run no code.

        Raises:
            CheckpointError: If all that are there are unreadable.
        """
        broken = ""
        for path in self._files():
            try:
                state: State = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch promises no class for a damaged file
                broken = broken or f"{path}: expected a checkpoint, found {type(error).__name__}: {error}"
                continue
            if state["mark"] == self.mark:
                return state
        if broken:
            raise CheckpointError(f"{broken}; remove {self.folder} to begin this training again")
        return None

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> list[Path]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if re.fullmatch(r"step-\d+\.pt", path.name)), reverse=True)
