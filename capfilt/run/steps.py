"""A step is done when its files are there and were made from what lies there now; else it is done (again), and timed.

Knows a step by its name, key and files; never what it does.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from capfilt.errors import CheckpointError
from capfilt.identity import content_hash, fingerprint
from capfilt.run import files
from capfilt.run.scratch import tree


@dataclass(frozen=True)
class Steps:
    """The steps of one run folder. A step's key stands for its settings and for the keys of what it was made from."""

    output: str

    def run(
        self,
        label: str,
        key: str,
        complete: Sequence[str],
        make: Callable[[], None],
        *,
        clear: Sequence[str] = (),
        sealed: Sequence[str] = (),
        inputs: Sequence[str | None] = (),
    ) -> bool:
        """Call `make` unless the step is done; True if it was called.

        Args:
            label: `round-N/stage`.
            complete: Files that a finished step has, relative to the run folder.
            clear: What else it leaves; deleted together with `complete` where an earlier start had another key.
            sealed: Further files it leaves whose sha256 is to be kept, as that of `complete` always is.
            inputs: As `key_with` was told.
        """
        mark = self._mark(label)
        before = files.get_json(mark)
        same = isinstance(before, dict) and before.get("key") == key
        if same and before["state"] == "done" and all(files.exists(files.join(self.output, path)) for path in complete):
            return False
        if not same:
            for path in (*complete, *clear):
                files.remove(files.join(self.output, path))
        told: dict[str, Any] = {"key": key} | ({"inputs": _known(before, inputs)} if inputs else {})
        files.put_json(mark, {**told, "state": "begun"})
        with self.timed(label):
            make()
        hashes = {path: file_sha256(files.join(self.output, path)) for path in (*complete, *sealed)}
        files.put_json(mark, {**told, "state": "done", "sha256": {path: seal for path, seal in hashes.items() if seal}})
        return True

    def key_with(self, label: str, key: str, inputs: Sequence[str | None]) -> str:
        """`key` with what stands in the files of the user's that the step reads, so that others under the same names are noticed.

        The mark of a version that did not look at them is given what is there now, and keeps its key: the step stays done until
        they change. A file that is not there any more counts as the one that was read.

        Args:
            inputs: `content` of each file, None where there is none.
        """
        mark = self._mark(label)
        before = files.get_json(mark)
        now = _known(before, inputs)
        if inputs and isinstance(before, dict) and before.get("key") == key:
            told = before.get("inputs") or [None] * len(now)
            if all(old in (None, new) for old, new in zip(told, now, strict=True)):
                if told != now:
                    files.put_json(mark, {**before, "inputs": now})
                return key
        return key_of(key, now) if inputs else key

    def _mark(self, label: str) -> str:
        return files.join(self.output, "steps", label.replace("/", "-") + ".json")

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """One line of events/phases.jsonl, also for a phase that failed: its time was spent."""
        started, begun = time.time(), time.monotonic()
        try:
            yield
        finally:
            seconds = round(time.monotonic() - begun, 3)
            files.append_line(self.output, "phases", {"phase": phase, "seconds": seconds, "started": round(started, 3)})


def _known(mark: Any, inputs: Sequence[str | None]) -> list[str | None]:
    """`inputs`, and of a file that is not there what its step's mark tells."""
    before = mark.get("inputs") if isinstance(mark, dict) else None
    if not isinstance(before, list) or len(before) != len(inputs):
        return list(inputs)
    return [old if new is None else new for old, new in zip(before, inputs, strict=True)]


def content(path: str) -> str | None:
    """What `Steps.key_with` is told of a file; None where there is none that can be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def file_sha256(path: str) -> str | None:
    """Hex digest of a file read in pieces, None where there is none."""
    digest = sha256()
    try:
        with files.open_file(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def key_of(*parts: Any) -> str:
    return fingerprint(list(parts))


def model_identity(source: str | None) -> str | None:
    """Hash of a model's weights and of what describes it, whatever its form; what cannot be found stands for itself."""
    if source is None:
        return None
    names = ("model.safetensors", "architecture.yaml", "tokenizer.json")
    contents = [files.get(files.join(source, name)) for name in names[:2]]
    if None not in contents:
        contents.append(files.get(files.join(source, names[2])))
        # A BLIP-2 of stage 2 is its language model too.
        beside = [file_sha256(address) or "" for address in tree(files.join(source, "language"))]
        return content_hash(*(content or b"" for content in contents), *beside)
    from capfilt.modeling.find import CLIP, HERE, LANGUAGE, find_checkpoint

    try:
        path = find_checkpoint(source, fetch=False)
    except CheckpointError:
        return source
    place = path if path.is_dir() else path.parent
    found = sorted({hit for pattern in HERE for hit in place.glob(pattern)}) if path.is_dir() else [path]
    # A frozen language model and a CLIP lie in folders of their own.
    found += sorted({hit for name in (LANGUAGE, CLIP) for pattern in HERE for hit in (place / name).glob(pattern)})
    told = [(str(hit.relative_to(place)), file_sha256(str(hit)) or "") for hit in found]
    return content_hash(*(part for pair in told for part in pair))
