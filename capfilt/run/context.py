"""What every part of a run shares: the pipeline, its folder, its steps, the display, and the command that continues it.

Only carries; does nothing.
"""

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
