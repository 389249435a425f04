"""What every part of a run shares: the pipeline, its folder, its steps, the display, and the command that continues it.

Only carries, and words that command; does nothing.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from capfilt.config.load import output_setting
from capfilt.config.pipeline import Pipeline
from capfilt.config.source import parse
from capfilt.errors import ConfigError
from capfilt.plan import Plan
from capfilt.run import files
from capfilt.run.progress import RunProgress
from capfilt.run.scratch import Scratch
from capfilt.run.steps import Steps


@dataclass(frozen=True)
class Context:
    pipeline: Pipeline
    plan: Plan
    steps: Steps
    progress: RunProgress
    command: str
    scratch: Scratch

    def path(self, *names: str) -> str:
        return files.join(self.pipeline.output, *names)

    def round_path(self, number: int, *names: str) -> str:
        return self.path(f"round-{number}", *names)

    def chunk_files(self, folder: str, chunk_ids: list[str]) -> tuple[str, ...]:
        """Committed chunk files of `pool` or `round-N/candidates`, by chunk id, and so by row id."""
        return tuple(self.path(folder, f"chunk-{name}.parquet") for name in sorted(chunk_ids))


def continuing(source: str, overrides: Sequence[str], *, limit: int | None = None, until: str | None = None) -> str:
    """The command that goes on: as it was given, but for `--from` and `--fresh`, which would begin anew."""
    options = [word for override in overrides for word in ("--set", override)]
    options += ["--limit", str(limit)] if limit is not None else []
    return shlex.join(["capfilt", "run", source, *options, *(["--until", until] if until is not None else [])])


def resuming(output: str, limit: int | None) -> str:
    """The command that goes on with the run in `output`, by the config that it left there.

    That config holds the folder the run was begun with. Where `output` is another, since the run was moved or is named from
    another place, the command says so: else it would begin anew in the old one.
    """
    config = files.join(output, "config.yaml")
    if limit is None:
        return continuing(config, () if _is_recorded(output, config) else (output_setting(output),))
    whole = output.rstrip("/").removesuffix(f"-limit-{limit}")  # which `--limit` puts behind it
    if whole == output.rstrip("/") or not whole.rpartition("/")[2]:
        return f"capfilt run … --limit {limit}"
    return continuing(config, (output_setting(whole),), limit=limit)


def _is_recorded(output: str, config: str) -> bool:
    try:
        tree = parse((files.get(config) or b"").decode(), config).tree
    except (ConfigError, UnicodeDecodeError):
        return False
    recorded = tree.get("output") if isinstance(tree, dict) else None
    return isinstance(recorded, str) and _place(recorded) == _place(output)


def _place(folder: str) -> str:
    return folder.rstrip("/") if files.is_remote(folder) else os.path.realpath(files.local(folder))
