from collections.abc import Callable
from pathlib import Path

import pytest

from capfilt.config.pipeline import Pipeline
from capfilt.errors import FailureBudgetError
from capfilt.run.build import Job
from capfilt.run.funnel import Funnel
from capfilt.run.work import Outcome

HEALTHY = {f"c{i}": 10 for i in range(10)}


@pytest.fixture
def funnel_of(tmp_path: Path, pipeline_of: Callable[..., Pipeline]) -> Callable[..., Funnel]:
    def make(kind: str, rates: str) -> Funnel:
        pipeline = pipeline_of(tmp_path, resources=f"max_failure_rate: {rates}")
        return Funnel(Job("pool" if kind == "pool" else "candidates", pipeline, "f", 1), HEALTHY, "capfilt run x")

    return make


def test_rows_that_failed_within_the_budget_end_nothing(funnel_of: Callable[..., Funnel]) -> None:
    funnel = funnel_of("candidates", "{caption: 0.1}")
    funnel.add({"ok": 90, "caption_failed": 10})
    funnel.check()
    assert funnel.kept_share == 0.9


def test_one_row_too_many_ends_the_run_with_the_command(funnel_of: Callable[..., Funnel]) -> None:
    funnel = funnel_of("candidates", "{filter: 0.1}")
    funnel.add({"ok": 50, "filter_failed": 11})
    told = r"round 1 filter: expected at most 10.0% of 100 rows.*found 11.*failed: capfilt run x --from round-1/filter"
    with pytest.raises(FailureBudgetError, match=told):
        funnel.check()


def test_a_quarantined_chunk_counts_with_all_its_healthy_rows(funnel_of: Callable[..., Funnel]) -> None:
    funnel = funnel_of("candidates", "{caption: 0.1}")
    funnel.lose(Outcome("c1", "caption", error="boom"))
    funnel.check()
    funnel.lose(Outcome("c2", "caption", error="boom"))
    with pytest.raises(FailureBudgetError, match=r"found 20 \(first: boom\)"):
        funnel.check()


def test_failed_downloads_end_nothing_unless_asked_for(funnel_of: Callable[..., Funnel]) -> None:
    funnel = funnel_of("pool", "{}")
    funnel.add({"download_failed": 100})
    funnel.check()
    funnel = funnel_of("pool", "{download: 0.5}")
    funnel.add({"download_failed": 51})
    with pytest.raises(FailureBudgetError, match=r"expected at most 50.0%.*retry .* --status download_failed && capfilt"):
        funnel.check()


def test_pool_chunks_that_die_end_the_run_even_without_a_download_budget(funnel_of: Callable[..., Funnel]) -> None:
    funnel = funnel_of("pool", "{}")
    funnel.lose(Outcome("c1", "download", error="its process died"))
    with pytest.raises(FailureBudgetError, match=r"failed: capfilt retry .* --quarantined && capfilt run x$"):
        funnel.check()
