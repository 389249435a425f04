"""benchmarks/hostile.py at its smallest: every trick once, through the real pool job."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DEADLINE_S = 1.0


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        spec = importlib.util.spec_from_file_location("hostile", BENCHMARKS / "hostile.py")
        assert spec is not None
        assert spec.loader is not None
        hostile = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(hostile)
        folder = tmp_path_factory.mktemp("hostile")
        return hostile.measure(folder, rows=230, threads=32, deadline_s=DEADLINE_S, rows_per_chunk=64)


def test_nobody_reaches_a_refused_address(result: Any) -> None:
    assert result["connections_at_traps"] == 0
    assert result["connections_meant_for_refused_addresses"] == {}
    assert result["connections_ended_by_the_fence"]["of_a_name_that_rebinds"] >= 1  # the fence sees who passes


def test_every_row_has_the_status_of_its_trick(result: Any) -> None:
    assert result["rows_without_status"] == 0
    assert sum(result["statuses"].values()) == 230
    assert all(trick["rows"] for trick in result["tricks"].values())
    # A busy machine may make anything time out within so short a deadline; nothing else excuses.
    assert [wrong for wrong in result["outcomes_of_no_trick"] if not wrong.endswith(" timeout")] == []
    assert set(result["statuses"]) == {"ok", "download_failed", "download_blocked", "opted_out", "image_invalid"}


def test_time_and_memory_of_a_row_are_bounded(result: Any) -> None:
    assert result["seconds_of_a_row"]["worst"] < 10 * DEADLINE_S  # its own, robots.txt's, and a wait for its turn
    assert result["resident_mib"]["grown"] < 500  # a gzip bomb alone is 100 MB, an endless body endless
