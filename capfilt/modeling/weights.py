"""A trained network as a folder, and back: model.safetensors, architecture.yaml, tokenizer.json. Published checkpoints too.

Ours holds what inference needs (the temperature too), not momentum copies, queues or optimisers; knows nothing of training. The
same weights give the same bytes.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from capfilt.config.architecture import Architecture, dump_architecture, load_architecture
from capfilt.errors import CheckpointError
from capfilt.modeling.build import build
from capfilt.modeling.med.network import MED
from capfilt.modeling.tokenizer import Tokenizer

WEIGHTS, ARCHITECTURE = "model.safetensors", "architecture.yaml"


@dataclass(frozen=True)
class LoadedMed:
    """A network in evaluation mode, with what belongs to it."""

    model: MED
    architecture: Architecture
    tokenizer: Tokenizer


def save_model(
    folder: Path | str,
    model: MED,
    architecture: Architecture,
    tokenizer: Tokenizer,
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


def load_model(source: Path | str, *, vocabulary: Path | str | None = None) -> LoadedMed:
    """A trained MED with its architecture and tokenizer; the network is on the CPU, in evaluation mode.

    Args:
        source: A folder that `save_model` wrote; a transformers folder of BlipForConditionalGeneration or
            BlipForImageTextRetrieval; a .pth file of the original BLIP code, or a folder with one; a hub name (owner/name).
        vocabulary: bert-base-uncased's vocab.txt, for checkpoints without a tokenizer; None: the file of that name beside them.

    Raises:
        CheckpointError: If a file is missing, or tensors are missing, unexpected or of another shape: all are listed.
    """
    from capfilt.modeling.med.checkpoints.find import find_checkpoint

    path = find_checkpoint(source)
    if path.is_dir() and not (path / ARCHITECTURE).is_file():
        if (path / "config.json").is_file():
            from capfilt.modeling.med.checkpoints.transformers_folder import load_transformers

            return load_transformers(path, vocabulary)
        files = sorted(path.glob("*.pth"))
        path = files[0] if len(files) == 1 else path
    if path.is_file():
        from capfilt.modeling.med.checkpoints.original import load_original

        return load_original(path, vocabulary)
    return _load_own(path)


def _load_own(folder: Path) -> LoadedMed:
    missing = [name for name in (WEIGHTS, ARCHITECTURE) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: expected a capfilt model, found no {', '.join(missing)}; point to a model folder")
    architecture = load_architecture(folder / ARCHITECTURE)
    model = build(architecture)
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS}: expected safetensors, found {error}; copy the file again") from None
    load_tensors(model, tensors, str(folder / WEIGHTS))
    return LoadedMed(model.eval(), architecture, Tokenizer.load(folder))


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with every shared tensor once."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor.detach()
    return found


def load_tensors(model: MED, tensors: dict[str, Tensor], source: str) -> None:
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
