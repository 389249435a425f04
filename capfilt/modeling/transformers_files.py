"""What lies in any folder that transformers wrote: settings, tensors, image processor, WordPiece.

Knows no network.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from capfilt.errors import CheckpointError
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import read_weights

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BICUBIC = 3


def image_processor(folder: Path, side: int) -> dict[str, Any]:
    """`image_mean` and `image_std` of the image processor, where the folder has one; BLIP's hold otherwise.

    Raises:
        CheckpointError: If it does something else than ours, or makes no squares of `side` pixels.
    """
    path = folder / "preprocessor_config.json"
    if path.is_file():
        settings = read_json(path)
    elif (folder / "processor_config.json").is_file():
        settings = read_json(folder / "processor_config.json").get("image_processor", {})
    else:
        return {}
    wrong = [key for key in ("do_resize", "do_rescale", "do_normalize") if settings.get(key, True) is not True]
    wrong += ["resample"] * (settings.get("resample", BICUBIC) != BICUBIC)
    wrong += ["rescale_factor"] * (abs(settings.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6)
    if wrong:
        told = ", ".join(f"{key} {settings[key]!r}" for key in wrong)
        raise CheckpointError(
            f"{folder}: expected BLIP's image processor (bicubic resize, scale 1/255, normalise), found {told}; ours has no other"
        )
    size = settings.get("size", side)
    if isinstance(size, Mapping):
        if size.get("height") != size.get("width"):
            raise CheckpointError(f"{folder}: expected square pictures, found {dict(size)} in the image processor")
        size = size.get("height")
    if size not in (None, side):
        raise CheckpointError(
            f"{folder}: expected an image processor of the network's {side} pixels, found {size}. Make both the same"
        )
    return {name: tuple(settings[name]) for name in ("image_mean", "image_std") if name in settings}


def folder_tokenizer(folder: Path, vocabulary: str | Path | None) -> Tokenizer:
    if vocabulary is not None:
        return Tokenizer.from_vocab(vocabulary)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder, complete=True)
    if (folder / "vocab.txt").is_file():
        return Tokenizer.from_vocab(folder / "vocab.txt")
    raise CheckpointError(
        f"{folder}: expected tokenizer.json or vocab.txt beside the weights, found neither. Save the tokenizer there, or give "
        "`vocabulary`, bert-base-uncased's vocab.txt"
    )


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder, from one file or from the parts that an index lists."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return read_weights(folder / name)
        if index.is_file():
            found: dict[str, Tensor] = {}
            for part in sorted(set(read_json(index)["weight_map"].values())):
                found |= read_weights(folder / part)
            return found
    raise CheckpointError(f"{folder}: expected {' or '.join(WEIGHTS)} beside {CONFIG}, found neither. Copy the weights there")


def read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected JSON settings, found {error}. Copy the file again") from None
    return content
