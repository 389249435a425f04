"""Tensors in files: a network's folder of ours (model.safetensors, architecture.yaml, tokenizer.json), others' files of weights.

Ours holds what inference needs (the temperature too), not momentum copies, queues or optimisers; the same weights give the same
bytes. Knows no family: `families` makes a network of it.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from capfilt.config.architectures import Architecture, dump_architecture
from capfilt.errors import CheckpointError

WEIGHTS, ARCHITECTURE = "model.safetensors", "architecture.yaml"


class Kept(Protocol):
    """What lies in a folder of its own accord: a tokenizer."""

    def save(self, folder: Path | str) -> None: ...


def save_model(
    folder: Path | str,
    model: nn.Module,
    architecture: Architecture,
    tokenizer: Kept,
    *,
    beside: Callable[[Path], None] = lambda fresh: None,
) -> None:
    """Write the folder; it appears whole, in place of any earlier one.

    Shared tensors are written once, under the first of their names. `beside` writes what else belongs into the folder.
    """
    folder = Path(folder)
    fresh, old = folder.with_name(f".{folder.name}.model.part"), folder.with_name(f".{folder.name}.model.old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: tensor.contiguous().cpu() for name, tensor in own_tensors(model).items()}, fresh / WEIGHTS)
    (fresh / ARCHITECTURE).write_text(dump_architecture(architecture), encoding="utf-8")
    tokenizer.save(fresh)
    beside(fresh)
    for path in (path for path in fresh.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that torch saved, of which only tensors are read: no code in it runs.

    Raises:
        CheckpointError: If it is neither.
    """
    try:
        if file.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(file)
            return tensors
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except SafetensorError as error:
        raise CheckpointError(f"{file}: expected safetensors, found {error}; copy the file again") from None
    except Exception as error:  # torch promises no class for a damaged file
        # Its own sentence advises to read the file unsafely.
        found = error if isinstance(error, OSError | RuntimeError | EOFError) else "a file without any, or with more than that"
        raise CheckpointError(
            f"{file}: expected a checkpoint of tensors, found {found}. Name another, or copy the file again; if it holds more "
            "than tensors, keep only its `model` entry"
        ) from None
    return state_dict_in(content, str(file))


def state_dict_in(content: Any, source: str) -> dict[str, Tensor]:
    """The tensors, bare or under `model` or `state_dict`, without the prefix that distributed training puts before names.

    Raises:
        CheckpointError: If there are none.
    """
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content or not all(isinstance(x, Tensor) for x in content.values()):
        found = (
            type(content).__name__ if not isinstance(content, Mapping) else f"entries {', '.join(map(str, list(content)[:5]))}"
        )
        raise CheckpointError(
            f"{source}: expected a state dict, bare or under `model`, found {found}. Give the model's state dict"
        )
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with every shared tensor once."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy the tensors into the network, each in its place.

    Raises:
        CheckpointError: If they are not exactly the network's; lists all that differ and changes nothing.
    """
    own = own_tensors(model)
    wrong = [f"missing {name} {list(own[name].shape)}" for name in own if name not in tensors]
    wrong += [f"unexpected {name} {list(tensors[name].shape)}" for name in tensors if name not in own]
    wrong += [
        f"misshapen {name}: expected {list(own[name].shape)}, found {list(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in own and own[name].shape != tensor.shape
    ]
    if wrong:
        listed = "\n  ".join(wrong)
        raise CheckpointError(f"{source}: expected the tensors of its architecture, found\n  {listed}\nUse the matching YAML.")
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
