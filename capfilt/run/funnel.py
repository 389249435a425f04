"""Counts rows by status over chunks, and says when more failed than the run may lose.

Works on counts alone; knows nothing about files or executors.
"""

import shlex
from collections import Counter
from collections.abc import Mapping

from capfilt.config.machine import FailureRates
from capfilt.errors import FailureBudgetError
from capfilt.run.build import Job
from capfilt.run.work import Outcome

POOL_CHUNK_LOSS = 0.02
"""Share of the pool's rows that quarantined chunks may hold where `max_failure_rate.download` is null: a host that does not
answer is the web's business, a chunk that dies is ours."""


class Funnel:
    """The counts of one pass over the chunks.

    Args:
        healthy: Rows that enter, by chunk id: all rows for the pool, rows with status ok for the candidates.
        command: That continues the run; told when it must end.
    """

    def __init__(self, job: Job, healthy: Mapping[str, int], command: str) -> None:
        self._job, self._healthy, self._command = job, healthy, command
        self._rates = job.pipeline.resources.max_failure_rate
        self._lost: Counter[str] = Counter()  # healthy rows of quarantined chunks, by the stage that failed
        self._why: dict[str, str] = {}
        self.counts: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self._healthy.values())

    @property
    def kept_share(self) -> float:
        seen = sum(self.counts.values())
        return self.counts["ok"] / seen if seen else 0.0

    def add(self, counts: Mapping[str, int]) -> None:
        self.counts.update(counts)

    def lose(self, outcome: Outcome) -> None:
        self._lost[outcome.stage] += self._healthy.get(outcome.chunk_id, 0)
        self._why.setdefault(outcome.stage, outcome.error or "")

    def check(self) -> None:
        """Asked after every chunk: what is lost already cannot be won back by those to come.

        Raises:
            FailureBudgetError: If a stage lost more than its share of all healthy rows.
        """
        for stage, failed, limit in self._stages(self._rates):
            if limit is not None and failed > limit * self.total:
                name = stage if not self._job.round_number else f"round {self._job.round_number} {stage}"
                why = f" (first: {self._why[stage]})" if stage in self._why else ""
                raise FailureBudgetError(
                    f"{name}: expected at most {limit:.1%} of {self.total:,} rows to fail, found {failed:,}{why}. What was done "
                    f"is kept. Mend the cause, then retry just what failed: {self._advice(stage)}"
                )

    def _advice(self, stage: str) -> str:
        """The commands that help, in order, one after the other with ` && `."""
        retry = f"capfilt retry {shlex.quote(self._job.pipeline.output)}"
        steps = [f"{retry} --quarantined"] if stage in self._why else []
        if self._job.kind == "pool" and self.counts["download_failed"]:
            steps.append(f"{retry} --status download_failed")
        again = self._command
        if self._job.kind == "candidates" and self.counts[f"{stage}_failed"]:
            again += f" --from round-{self._job.round_number}/{stage}"
        return " && ".join([*steps, again])

    def _stages(self, rates: FailureRates) -> list[tuple[str, int, float | None]]:
        if self._job.kind == "pool":
            lost = self._lost["download"]
            if rates.download is None:
                return [("download", lost, POOL_CHUNK_LOSS)]
            return [("download", lost + self.counts["download_failed"], rates.download)]
        return [
            ("caption", self._lost["caption"] + self.counts["caption_failed"], rates.caption),
            ("filter", self._lost["filter"] + self.counts["filter_failed"], rates.filter),
        ]
