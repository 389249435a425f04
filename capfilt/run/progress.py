"""What the user sees of a run: one live display on a terminal, plain lines elsewhere.

Shows what it is told; knows nothing about stages or files.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

LINE_EVERY_S = 10.0
Fact = str | int | float


class StageProgress(Protocol):
    """One stage at work. `facts` are shown as they are; a share between 0 and 1 is shown in percent."""

    def advance(self, n: int, **facts: Fact) -> None: ...


class RunProgress(Protocol):
    """The display of one run."""

    def stage(self, name: str, total: int, unit: str = "rows") -> AbstractContextManager[StageProgress]: ...

    def note(self, text: str) -> None: ...


class Tally:
    """Count, rate and time left of one stage. Without a unit there is nothing to count: the stage is one piece of work."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.started = time.monotonic()
        self.facts: dict[str, Fact] = {}

    def add(self, n: int, facts: dict[str, Fact]) -> None:
        self.done += n
        self.facts.update(facts)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def describe(self, unit: str) -> str:
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        parts = [f"{self.done:,}/{self.total:,} {unit}"] if unit else []
        if self.done and unit:
            parts.append(f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s")
        parts += [f"{name.replace('_', ' ')} {_show(value)}" for name, value in self.facts.items()]
        if 0 < self.done < self.total and rate > 0:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        return " · ".join(parts)

    def finished(self, unit: str) -> str:
        return " · ".join(part for part in (self.describe(unit), f"done in {_clock(self.seconds)}") if part)


def _show(value: Fact) -> str:
    if isinstance(value, float):
        return f"{value:.0%}" if 0 <= value <= 1 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"


class PlainProgress:
    """A line when a stage begins and ends, and one every ten seconds between."""

    def __init__(self, out: TextIO | None = None, *, every_s: float = LINE_EVERY_S) -> None:
        self._out = out
        self._every_s = every_s

    def note(self, text: str) -> None:
        print(text, file=self._out or sys.stderr, flush=True)  # looked up now: see run/noise.py

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "rows") -> Iterator[StageProgress]:
        tally = Tally(total)
        self.note(f"{name}: {total:,} {unit}" if unit else name)
        yield _PlainStage(self, name, tally, unit, self._every_s)
        self.note(f"{name}: {tally.finished(unit)}")


class _PlainStage:
    def __init__(self, progress: PlainProgress, name: str, tally: Tally, unit: str, every_s: float) -> None:
        self._progress, self._name, self._tally, self._unit, self._every_s = progress, name, tally, unit, every_s
        self._said = time.monotonic()

    def advance(self, n: int, **facts: Fact) -> None:
        self._tally.add(n, facts)
        now = time.monotonic()
        if now - self._said >= self._every_s and self._tally.done < self._tally.total:
            self._said = now
            self._progress.note(f"{self._name}: {self._tally.describe(self._unit)}")


class LiveProgress:
    """A bar per stage; finished ones stay above as one line each."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "rows") -> Iterator[StageProgress]:
        tally = Tally(total)
        bar = Progress(
            SpinnerColumn(), TextColumn("{task.description:<24}"), BarColumn(bar_width=24), TextColumn("{task.fields[facts]}"),
            console=self._console, transient=True,
        )  # fmt: skip
        with bar:
            task = bar.add_task(name, total=total, facts="")
            yield _LiveStage(bar, task, tally, unit)
        self._console.print(f"[green]✓[/] {name:<24} {tally.finished(unit)}", highlight=False)


class _LiveStage:
    def __init__(self, bar: Progress, task: TaskID, tally: Tally, unit: str) -> None:
        self._bar, self._task, self._tally, self._unit = bar, task, tally, unit

    def advance(self, n: int, **facts: Fact) -> None:
        self._tally.add(n, facts)
        self._bar.update(self._task, advance=n, facts=self._tally.describe(self._unit))


class SilentProgress:
    """Shows nothing: for tests and for callers with a display of their own."""

    def note(self, text: str) -> None:
        del text

    @contextmanager
    def stage(self, name: str, total: int, unit: str = "rows") -> Iterator[StageProgress]:
        del name, total, unit
        yield self

    def advance(self, n: int, **facts: Fact) -> None:
        del n, facts


def make_progress() -> RunProgress:
    """Live on a terminal, plain lines elsewhere."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()
