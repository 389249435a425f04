"""Files of a run folder, local or behind any fsspec address, that appear whole or not at all.

Knows nothing about what is in them.
"""

import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import fsspec


def is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def local(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names])


def put(path: str, data: bytes | memoryview) -> None:
    """Write beside, fsync, rename; on an object store a single put, which is whole by nature."""
    if is_remote(path):
        filesystem, inner = fsspec.core.url_to_fs(path)
        filesystem.pipe_file(inner, bytes(data))
        return
    target = local(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Two attempts of one chunk may meet (a worker believed dead): each writes its own file; the renamed bytes are equal.
    beside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_changed(path: str, data: bytes | memoryview) -> None:
    """As `put`; a file that holds these bytes is left alone, so that a start that finds nothing new writes nothing."""
    if get(path) != bytes(data):
        put(path, data)


def put_json(path: str, value: Any) -> None:
    put(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def get(path: str) -> bytes | None:
    """The bytes of a file, None where there is none."""
    try:
        if is_remote(path):
            filesystem, inner = fsspec.core.url_to_fs(path)
            data: bytes = filesystem.cat_file(inner)
            return data
        return local(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def get_json(path: str) -> Any:
    """The value of a JSON file, None where there is none or it was cut short."""
    data = get(path)
    try:
        return None if data is None else json.loads(data)
    except ValueError:
        return None


def open_file(path: str) -> IO[bytes]:
    """A file for reading, to be used in `with`."""
    if is_remote(path):
        opened: IO[bytes] = fsspec.open(path, "rb").open()
        return opened
    return local(path).open("rb")


def exists(path: str) -> bool:
    if is_remote(path):
        filesystem, inner = fsspec.core.url_to_fs(path)
        return bool(filesystem.exists(inner))
    return local(path).exists()


def listing(folder: str, prefix: str = "", suffix: str = "") -> list[str]:
    """Paths of the files directly inside `folder`, sorted; empty where there is no folder."""
    if is_remote(folder):
        filesystem, inner = fsspec.core.url_to_fs(folder)
        try:
            found = [str(name) for name in filesystem.ls(inner, detail=False)]
        except FileNotFoundError:
            return []
        names = [name.rstrip("/").rpartition("/")[2] for name in found]
    else:
        try:
            names = os.listdir(local(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
    return [join(folder, name) for name in sorted(names) if name.startswith(prefix) and name.endswith(suffix)]


def remove(path: str) -> None:
    """Delete a file or a whole folder; nothing where there is none."""
    if is_remote(path):
        filesystem, inner = fsspec.core.url_to_fs(path)
        if filesystem.exists(inner):
            filesystem.rm(inner, recursive=True)
        return
    target = local(path)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def append_line(folder: str, name: str, value: dict[str, Any]) -> None:
    """One line of events/`name`.jsonl; on an object store, which cannot append, a small file of its own."""
    line = json.dumps(value, ensure_ascii=False) + "\n"
    if is_remote(folder):
        known = len(listing(join(folder, "events"), f"{name}-"))
        put(join(folder, "events", f"{name}-{known:06d}.jsonl"), line.encode())
        return
    path = local(join(folder, "events", f"{name}.jsonl"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def lines(folder: str, name: str) -> Sequence[dict[str, Any]]:
    """All lines that `append_line` wrote; one that a crash cut short is left out."""
    events = join(folder, "events")
    paths = listing(events, f"{name}-", ".jsonl") if is_remote(folder) else [join(events, f"{name}.jsonl")]
    found = []
    for path in paths:
        for line in (get(path) or b"").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found
