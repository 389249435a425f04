import io
import time

import pytest
from rich.console import Console

from capfilt.run.progress import LiveProgress, PlainProgress, SilentProgress, Tally


def test_plain_lines_come_at_the_start_and_the_end_only() -> None:
    out = io.StringIO()
    with PlainProgress(out).stage("pool", 100) as stage:
        for _ in range(10):
            stage.advance(10, kept=0.5)
    first, last = out.getvalue().splitlines()
    assert first == "pool: 100 rows"
    assert last.startswith("pool: 100/100 rows")
    assert "kept 50%" in last


def test_a_long_stage_says_how_far_it_is_and_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with PlainProgress(out).stage("caption", 100) as stage:
        for _ in range(4):
            now[0] += 6
            stage.advance(10)
    said = out.getvalue().splitlines()
    assert said[1] == "caption: 20/100 rows · 1.7 rows/s · 0:48 left"
    assert len(said) == 4


def test_one_piece_of_work_is_not_counted() -> None:
    out = io.StringIO()
    with PlainProgress(out).stage("select", 1, "") as stage:
        stage.advance(1, kept=0.25)
    assert out.getvalue().splitlines() == ["select", "select: kept 25% · done in 0:00"]


def test_a_terminal_keeps_one_line_per_finished_stage() -> None:
    out = io.StringIO()
    with LiveProgress(Console(file=out, force_terminal=True, width=120)).stage("pool", 2) as stage:
        stage.advance(2, kept=1.0)
    last = out.getvalue().splitlines()[-1]
    assert "pool" in last
    assert "2/2 rows" in last


def test_silence_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    progress = SilentProgress()
    progress.note("x")
    with progress.stage("pool", 1) as stage:
        stage.advance(1)
    assert capfd.readouterr() == ("", "")


def test_before_the_first_row_there_is_no_rate() -> None:
    assert Tally(5).describe("rows") == "0/5 rows"
