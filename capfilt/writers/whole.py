"""Files and folders that appear whole: written beside, renamed into place. Knows nothing about what is in them."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

BESIDE = (".tmp", ".old")
"""Behind a folder's name: what is written beside it, and what it takes the place of. Both are deleted without a question."""


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A fresh folder `<target>.tmp` that takes the place of `target` when the block ends well.

    Whoever is interrupted leaves only the .tmp folder, which the next attempt removes.
    """
    beside, old = (target.with_name(target.name + end) for end in BESIDE)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    yield beside
    for path in sorted(beside.rglob("*")):
        sync(path)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    beside.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, keys as given, same value same bytes."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def file_hash(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as data:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """What was written to a file, or renamed in a folder, is on the disk after this."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
