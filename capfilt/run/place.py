"""Whether a folder may be a run's: new, empty, or an earlier run's. Anything else would be littered, or lose files to `--fresh`.

Looks at names, and at what says that a run was here; deletes and writes nothing.
"""

import os
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from typing import Any

import fsspec
import yaml

from capfilt.config.pipeline import Pipeline
from capfilt.errors import ConfigError
from capfilt.run import files
from capfilt.sources.places import braces

KNOWN = ("config.yaml", "plan.json", "inputs.parquet", "miniweb", "pool", "events", "steps", "report.html")
"""What a run writes beside its folders round-N, and `--fresh` deletes."""
STARTED = ("lease.json", "events", "miniweb")
"""What a start leaves that ended before the folder was marked as a run's."""
EVENTS = ("ray.log", "attempts")
"""In `events` beside its lines."""
HARMLESS = (
    *(".gitignore", ".gitkeep", ".keep", ".DS_Store", "Thumbs.db", "desktop.ini"),
    *("lost+found", ".nfs*", ".snapshot", ".Trash-*", "@eaDir", ".ipynb_checkpoints"),
    *("*.log", "*.out", "*.err"),
)
"""What file systems, desktops, version control and schedulers leave in a folder that its owner takes for empty."""
OWN_KEYS = {"version", "name", "seed", "output", "rounds", "screen", "resources"}
"""Of config.yaml as a run writes it, among others: enough not to take another program's for it."""
ADVICE = "Name a folder of its own, such as output: runs/NAME"


def check_place(output: str, inputs: Collection[str] = ()) -> None:
    """Whether a run may work in `output`. `inputs`: names or patterns in it that are the run's to read (`inputs_inside`).

    Raises:
        ConfigError: If it is no address that fsspec knows, `/`, the home folder, or a folder with other things than a run's.
        OutputError: If it cannot be read.
    """
    if not output:
        raise ConfigError(f"output: expected a folder, found an empty text. {ADVICE}")
    _check_address(output)
    with files.writing(output):  # a folder that may not even be read
        is_ours, found = is_run(output), strangers(output, inputs)
    if is_ours:
        return
    if not files.is_remote(output):
        here = os.path.realpath(files.local(output))
        for named, path in (("the root of all folders", "/"), ("the home folder", os.path.expanduser("~"))):
            if here == os.path.realpath(path):
                raise ConfigError(f"output: expected a folder for this run alone, found {named}, `{here}`. {ADVICE}")
    if found:
        shown = ", ".join(found[:3]) + (f" and {len(found) - 3:,} more" if len(found) > 3 else "")
        where = output if files.is_remote(output) else os.path.realpath(files.local(output))
        raise ConfigError(
            f"output: expected a new or an empty folder, or an earlier run's, found other things in `{where}`: {shown}. {ADVICE}"
        )


def is_run(output: str) -> bool:
    """Whether a run marked this folder as its own, by its config or its plan."""
    plan = files.get_json(files.join(output, "plan.json"))
    if isinstance(plan, dict) and {"fingerprint", "settings"} <= plan.keys():
        return True
    try:
        config = yaml.safe_load(files.get(files.join(output, "config.yaml")) or b"")
    except yaml.YAMLError:
        return False
    return isinstance(config, dict) and config.keys() >= OWN_KEYS


def strangers(output: str, inputs: Collection[str] = ()) -> list[str]:
    """Names in a folder that no run has marked, which no start of a run can have left there."""
    names = [path.rpartition("/")[2] for path in files.listing(output)]
    known = [*(name for name in STARTED if name != "events" or _are_ours(output)), *HARMLESS]

    def is_known(name: str) -> bool:
        would_be_lost = name in KNOWN or re.fullmatch(r"round-\d+", name)  # though it is an input: the run writes there
        patterns = known if would_be_lost else [*known, *inputs]
        return any(fnmatch(name, one) for one in patterns) or bool(files.LEFT_OVER.fullmatch(name))

    return [name for name in names if not is_known(name)]


def _are_ours(output: str) -> bool:
    """Whether the folder `events`, a common name, holds a run's alone."""
    names = [path.rpartition("/")[2] for path in files.listing(files.join(output, "events"))]
    return all(name.endswith(".jsonl") or name in EVENTS or files.LEFT_OVER.fullmatch(name) for name in names)


def inputs_inside(pipeline: Pipeline) -> list[str]:
    """First names of the paths in the run folder that a pipeline's settings hold, however they are written: what the user has put
    there for the run to read. A `*` alone means nothing in particular and is left out.
    """

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield from braces(value) if "/" in value else ()
        elif isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from texts(inner)

    folder = _plain(pipeline.output).rstrip("/") + "/"
    inside = (
        _plain(text).removeprefix(folder) for text in texts(pipeline.model_dump(mode="json")) if _plain(text).startswith(folder)
    )
    return sorted({text.partition("/")[0] for text in inside} - {"*", "**", ""})


def _plain(path: str) -> str:
    """One spelling of an address, or of a path of this machine, however it is written."""
    return path if files.is_remote(path) else os.path.abspath(files.local(path))


def _check_address(output: str) -> None:
    if not files.is_remote(output):
        return
    try:
        fsspec.core.url_to_fs(output)
    except (ImportError, ValueError) as problem:
        raise ConfigError(
            f"output: expected a folder or an address that fsspec can write to, found `{output}`: {problem}. "
            "Correct it or install what it names"
        ) from None
