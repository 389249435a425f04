"""From what a user names to a path on this machine: a folder, a file, or a repository of the Hugging Face hub.

Knows nothing of what is in it.
"""

import re
from pathlib import Path

from capfilt.errors import CheckpointError

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "open_clip_pytorch_model*.bin")
FILES = ("*.json", "*.txt", "*.yaml", "*.model", *WEIGHTS)
"""Of a repository; weights of other frameworks stay where they are."""
HERE = (*FILES, "*.bin", "*.pth", "*.pt")
"""Of a folder on this machine: all that a model may be made of."""
LANGUAGE, CLIP = "language", "clip"
"""Folders in a model's folder, or beside its file: a frozen language model, a CLIP."""


def find_checkpoint(source: str | Path, *, fetch: bool = True) -> Path:
    """A folder or file as it is; `owner/name` from the hub's cache, filled over the network with `fetch`.

    Raises:
        CheckpointError: If it is neither, or cannot be had.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if HUB_NAME.fullmatch(str(source)) is None:
        raise CheckpointError(
            f"{source}: expected a model folder, a checkpoint file or a hub name (owner/name), found none. Check the path"
        )
    return _from_hub(str(source), fetch)


def is_checkpoint_name(source: str | Path) -> bool:
    """Whether `source` names weights (a folder, a weights file, a hub name) rather than the architecture of a fresh network."""
    path = Path(source).expanduser()
    if path.exists():
        return path.is_dir() or path.suffix not in (".yaml", ".yml")
    return path.suffix not in (".yaml", ".yml") and (
        path.suffix in (".pth", ".pt", ".bin", ".safetensors") or HUB_NAME.fullmatch(str(source)) is not None
    )


def _from_hub(name: str, fetch: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        try:
            cached = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
            if any(any(cached.glob(pattern)) for pattern in WEIGHTS):
                return cached
        except LocalEntryNotFoundError:
            pass
        return Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=not fetch))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{name}: expected a folder, or a repository in the hub's cache or within reach, found neither ({reason}). "
            f"Where there is a network run `hf download {name} --local-dir FOLDER`, bring the folder here and give its path"
        ) from None
