"""Steps that need real folders, in a run whose folder is on an object store: they work beside it and send there what they made.

A local run is its own scratch: nothing is copied. Knows nothing about what the files are.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import fsspec

from capfilt.run import files


class Scratch:
    """A folder of this machine that mirrors parts of the run folder; on exit it is gone. `TMPDIR` says where it lies.

    Args:
        output: The run folder.
    """

    def __init__(self, output: str) -> None:
        self._output = output
        self.is_remote = files.is_remote(output)
        self._folder: Path | None = None if self.is_remote else files.local(output)
        self._here: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_remote and self._folder is not None:
            shutil.rmtree(self._folder.parent, ignore_errors=True)
            self._folder = None
            self._here.clear()

    def path(self, *names: str) -> Path:
        """Where a step finds or makes what is `names` in the run folder."""
        if self._folder is None:
            # The run folder's own name stays the last: reports and models are called by it.
            name = self._output.rstrip("/").rpartition("/")[2] or "run"
            self._folder = Path(tempfile.mkdtemp(prefix="capfilt-")) / name
            self._folder.mkdir()
        return self._folder.joinpath(*names)

    def fetch(self, *names: str) -> Path:
        """`path`, with what the run folder has there: a file, a folder, or nothing. Fetched once."""
        here = self.path(*names)
        wanted = files.join("", *names)
        if self.is_remote and wanted not in self._here:
            _fetch(files.join(self._output, *names), here)
            self._here.add(wanted)
        return here

    def send(self, *names: str) -> None:
        """Make the run folder's `names` what it is here: a single put per file; files that are not here any more go."""
        if not self.is_remote:
            return
        here = self.path(*names)
        there = files.join(self._output, *names)
        own = [path for path in (sorted(here.rglob("*")) if here.is_dir() else [here]) if path.is_file()]
        targets = {files.join(there, *path.relative_to(here).parts) if path != here else there: path for path in own}
        for old in tree(there):
            if old not in targets:
                files.remove(old)
        # Those that tell of the others last: manifest.json, summary.json.
        for target, path in sorted(targets.items(), key=lambda item: (item[1].suffix == ".json", item[0])):
            files.put_file(target, path)
        self._here.add(files.join("", *names))

    def drop(self, *names: str) -> None:
        """Give the room back; nothing in a local run."""
        if self.is_remote:
            files.remove(str(self.path(*names)))
            self._here.discard(files.join("", *names))


def tree(folder: str) -> list[str]:
    """Addresses of all files below `folder`, sorted; empty where there is no such folder."""
    filesystem, inner = fsspec.core.url_to_fs(folder)
    found = filesystem.find(inner) if filesystem.isdir(inner) else []
    return sorted(files.join(folder, str(name)[len(inner.rstrip("/")) + 1 :]) for name in found)


def _fetch(there: str, here: Path) -> None:
    filesystem, inner = fsspec.core.url_to_fs(there)
    sources = {there: here} if filesystem.isfile(inner) else {path: here / path[len(there) + 1 :] for path in tree(there)}
    for source, target in sources.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(target.name + ".part")
        with files.writing(str(target)), files.open_file(source) as reading, beside.open("wb") as file:
            shutil.copyfileobj(reading, file, 1 << 20)
        beside.replace(target)


@contextmanager
def local_folder(folder: str) -> Iterator[str]:
    """A folder as one of this machine for as long as the block lasts: itself, or a copy of one on an object store.

    The copy keeps the last three names, by which a model is called.
    """
    if not files.is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="capfilt-") as place:
        here = Path(place).joinpath(*folder.rstrip("/").split("/")[-3:])
        _fetch(folder, here)
        yield str(here)
