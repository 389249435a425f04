"""A training that is killed before or after any change on the disk ends with the weights of one that was not."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from capfilt.config.train import Losses, Mix, PretrainConfig
from capfilt.training import WebPairs, pretrain

Tree = dict[str, bytes]


def tree(folder: Path) -> Tree:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def weights(folder: Path) -> Tree:
    return tree(folder / "models" / "pretrained")


@pytest.fixture
def train(tmp_path: Path, pool_file: str, human_file: str, architecture_file: Path) -> Any:
    config = PretrainConfig(
        architecture=str(architecture_file),
        mix=Mix(web=0.6, human=0.4),
        human=human_file,
        losses=Losses(itc=1, itm=1, lm=1),
        steps=5,
        batch_size=4,
        lr=1e-3,
        checkpoint_every_steps=1,
        threads=1,
    )

    def run(folder: Path) -> None:
        out, work = folder / "models" / "pretrained", folder / "training" / "pretrain"
        pretrain(config, web=WebPairs((pool_file,), "pool"), out=out, work=work, seed=1, device="cpu")

    return run


def test_killed_at_any_write_a_training_ends_with_the_same_weights(
    tmp_path: Path, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    states: dict[int, Tree] = {}

    def watched(real: Any) -> Any:
        def operation(*args: Any, **kwargs: Any) -> Any:
            found = tree(folder)
            states.setdefault(hash(tuple(found.items())), found)
            return real(*args, **kwargs)

        return operation

    with monkeypatch.context() as patch:
        for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, watched(getattr(os, name)))
        train(folder)
    calm = weights(folder)
    assert len(states) > 12
    for number, state in enumerate(states.values()):
        shutil.rmtree(folder)
        for name, data in state.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data[: len(data) // 2] if ".part" in name and number % 2 else data)
        folder.mkdir(exist_ok=True)
        train(folder)
        assert weights(folder) == calm, f"killed at state {number}: {sorted(state)}"
