"""Files of a run folder, local or behind any fsspec address, that appear whole or not at all.

Knows nothing about what is in them. What the disk or the store refuses to take is an `OutputError`, in a worker too.
"""

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import fsspec

from capfilt.errors import CapfiltError, InputError, OutputError
from capfilt.writers.whole import sync

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_FOLDER = (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)
NOT_THERE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
LEFT_OVER = re.compile(
    r"\.(lease-[0-9a-f]{32}|.+\.\d+-\d+\.part|(pretrained|captioner|filter|[a-z][a-z0-9_-]*\.model)\.(part|old)"
    r"|\w+\.parquet\.\d+)"
)
"""Names that only a writer in the middle of its work uses: whoever finds one under the lease finds what a kill left."""


def is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def local(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def _store(path: str) -> tuple[Any, str]:
    """The file system behind an address, and the path in it.

    Raises:
        InputError: If fsspec does not know it, or lacks the library for it.
    """
    try:
        found: tuple[Any, str] = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as problem:
        raise InputError(
            f"{path}: expected a path or an address that fsspec knows, found: {problem}. Correct it or install what it names"
        ) from None
    found[0].invalidate_cache()  # some keep what they listed, and other processes write here too
    return found


def join(folder: str, *names: str) -> str:
    return "/".join([folder.rstrip("/"), *names])


def output_error(problem: BaseException, where: str) -> OutputError | None:
    """`problem` as what the user can mend: no room, no permission, no folder; None where it is something else."""
    number = problem.errno if isinstance(problem, OSError) else None
    if isinstance(problem, PermissionError):
        number = number or errno.EACCES  # of an object store
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(problem))):  # a library written in Rust
        number = int(told[1])
    before = problem.__cause__ or problem.__context__
    if number is None and before is not None and isinstance(problem, RuntimeError):  # torch hides it behind an error of its own
        return output_error(before, where)
    reason = os.strerror(number) if number is not None else ""
    if number in NO_ROOM:
        return OutputError(
            f"{where}: expected room to write, found: {reason}. What was done is kept: make room, then run the same command again"
        )
    if number in NOT_ALLOWED:
        return OutputError(
            f"{where}: expected to be allowed to write, found: {reason}. What was done is kept: change the permissions and run "
            "the same command again, or name another `output`"
        )
    if number in NO_FOLDER:
        return _no_folder(where, reason)
    return None


def _no_folder(where: str, reason: str) -> OutputError:
    """With the first thing on the way to `where` that is no folder, if there is one."""
    ways = [str(way) for way in reversed(local(where).parents)]
    taken = next((way for way in ways if os.path.lexists(way) and not os.path.isdir(way)), None)
    if taken is not None:
        reason = f"{'a link to nothing' if os.path.islink(taken) and not os.path.exists(taken) else 'a file'} at `{taken}`"
    return OutputError(f"{where}: expected a folder, or room for one, on the way to it, found: {reason}. Name another `output`")


@contextmanager
def writing(where: str, *, inside: bool = False) -> Iterator[None]:
    """Around what writes to `where`.

    Args:
        inside: Around more than that, such as reading inputs: what is forbidden counts only for files inside `where`.

    Raises:
        OutputError: Instead of the OSError of a full or forbidden disk; others pass.
    """
    try:
        yield
    except CapfiltError:
        raise
    except Exception as problem:
        name = str(getattr(problem, "filename", None) or "")
        told = output_error(problem, where)
        if not inside and isinstance(problem, FileNotFoundError) and name and str(local(where)).startswith(name):
            told = _no_folder(where, os.strerror(errno.ENOENT))  # say below /proc, where no folder can be made
        is_elsewhere = isinstance(problem, OSError) and problem.errno not in NO_ROOM and name
        if told is None or (
            inside and is_elsewhere and not os.path.abspath(name).startswith(os.path.abspath(local(where)) + os.sep)
        ):
            raise
        raise told from problem


def put(path: str, data: bytes | memoryview) -> None:
    """Write beside, fsync, rename; on an object store a single put, which is whole by nature.

    Raises:
        OutputError: If there is no room, or no permission to write there.
    """
    with writing(path):
        _put(path, data)


def _put(path: str, data: bytes | memoryview) -> None:
    if is_remote(path):
        filesystem, inner = _store(path)
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
    sync(target.parent)


def put_file(path: str, source: Path) -> None:
    """As `put`, for a file of this machine that need not fit into memory."""
    with writing(path):
        if is_remote(path):
            filesystem, inner = _store(path)
            filesystem.put_file(str(source), inner)
        elif local(path) != source:
            _put(path, source.read_bytes())


def create(path: str, data: bytes) -> bool:
    """Write a file that must not be there yet; False if it is. A store that cannot refuse overwrites."""
    with writing(path):
        if is_remote(path):
            filesystem, inner = _store(path)
            if filesystem.exists(inner):
                return False
            try:
                filesystem.pipe_file(inner, data, mode="create")
            except FileExistsError:
                return False
            return True
        local(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            with local(path).open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True


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
            filesystem, inner = _store(path)
            data: bytes = filesystem.cat_file(inner)
            return data
        return local(path).read_bytes()
    except OSError as problem:
        if isinstance(problem, FileNotFoundError) or problem.errno in NOT_THERE:
            return None
        raise


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
        filesystem, inner = _store(path)
        return bool(filesystem.exists(inner))
    return os.path.exists(local(path))


def listing(folder: str, prefix: str = "", suffix: str = "") -> list[str]:
    """Paths of the files directly inside `folder`, sorted; empty where there is no folder."""
    if is_remote(folder):
        filesystem, inner = _store(folder)
        try:
            found = [str(name) for name in filesystem.ls(inner, detail=False)]
        except FileNotFoundError:
            return []
        # A store's empty object `folder/`, by which some tools make a folder, is the folder, and no file in it.
        inside = [name for name in found if not (name.endswith("/") and name.strip("/") == inner.strip("/"))]
        names = [name.rstrip("/").rpartition("/")[2] for name in inside]
    else:
        try:
            names = os.listdir(local(folder))
        except OSError as problem:
            if problem.errno in NOT_THERE:
                return []
            raise
    return [join(folder, name) for name in sorted(names) if name.startswith(prefix) and name.endswith(suffix)]


def remove(path: str) -> None:
    """Delete a file or a whole folder; nothing where there is none."""
    if is_remote(path):
        filesystem, inner = _store(path)
        if filesystem.exists(inner):
            filesystem.rm(inner, recursive=True)
        return
    target = local(path)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def sweep(folder: str) -> None:
    """Delete what writers that were killed left directly inside a local folder; nobody may be writing there."""
    if is_remote(folder):
        return
    for path in listing(folder, "."):
        if LEFT_OVER.fullmatch(path.rpartition("/")[2]):
            remove(path)


def append_line(folder: str, name: str, value: dict[str, Any]) -> None:
    """One line of events/`name`.jsonl; on an object store, which cannot append, a small file of its own."""
    line = json.dumps(value, ensure_ascii=False) + "\n"
    if is_remote(folder):
        known = len(listing(join(folder, "events"), f"{name}-"))
        put(join(folder, "events", f"{name}-{known:06d}.jsonl"), line.encode())
        return
    path = local(join(folder, "events", f"{name}.jsonl"))
    with writing(str(path)):
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
