"""What every part of a run shares: the pipeline, its folder, its steps, the display, and the command that continues it.

Only carries; does nothing.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from capfilt.config.pipeline import Pipeline
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
