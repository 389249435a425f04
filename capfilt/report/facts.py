"""The small files of a run folder as one value: config, plan, phases, and each round's measures and training logs.

Missing or half-written files become empty values, never errors; knows nothing about Parquet tables or HTML.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from capfilt.config.select import SelectConfig
from capfilt.errors import InputError
from capfilt.report.words import is_number
from capfilt.run import files

Json = dict[str, Any]
FINETUNED = ("captioner", "filter")


@dataclass(frozen=True)
class Phase:
    """One line of events/phases.jsonl. `started` is in seconds since 1970, None where it was not told."""

    name: str
    seconds: float
    started: float | None


@dataclass(frozen=True)
class Round:
    """What one round left behind; empty dictionaries where it did not get that far."""

    number: int
    folder: Path
    tables: str
    metrics: Json
    summary: Json
    manifest: Json
    logs: Mapping[str, tuple[Json, ...]]
    """By training: those of `pretrain` by name, then captioner and filter."""

    @property
    def candidates(self) -> tuple[str, ...]:
        """Chunk files sorted by chunk id, so that their rows are sorted by row_id over all files."""
        return tuple(files.listing(files.join(self.tables, "candidates"), "chunk-", ".parquet"))

    @property
    def selection(self) -> Path | None:
        path = self.folder / "selection" / "selection.parquet"
        return path if path.is_file() else None

    @property
    def primary(self) -> float | None:
        value = dig(self.metrics, "primary", "value")
        return float(value) if is_number(value) else None

    @property
    def primary_interval(self) -> tuple[float, float] | None:
        return interval(dig(self.metrics, "primary", "interval"))


@dataclass(frozen=True)
class Facts:
    """A run, as far as its small files tell. `tables` is where the chunk files lie: the run's address, on an object store too."""

    folder: Path
    tables: str
    config: Json
    plan: Json
    rounds: tuple[Round, ...]
    phases: tuple[Phase, ...]
    pairings: Mapping[int, Json]  # by round, how captioner and filter belong together, where a run noted it

    @property
    def name(self) -> str:
        return str(self.config.get("name") or self.folder.name)

    @property
    def seed(self) -> Any:
        return self.config.get("seed", 0)

    @property
    def policy(self) -> SelectConfig | None:
        """What texts are judged by; None where the run does not select, or its config cannot be read."""
        told = self.config.get("select")
        try:
            return SelectConfig.model_validate(told) if isinstance(told, dict) else None
        except ValueError:
            return None

    @property
    def score(self) -> Literal["itm", "itc", "relative"]:
        """What the policy judges by."""
        return "itm" if self.policy is None else self.policy.score

    @property
    def threshold(self) -> float | None:
        """The policy's, of `score`; None where the run does not select."""
        return None if self.policy is None else self.policy.threshold

    @property
    def scored_round(self) -> Round | None:
        """The last round with candidates: the one whose texts are shown."""
        return next((one for one in reversed(self.rounds) if one.candidates), None)

    @property
    def before(self) -> Round | None:
        """The round everything is compared with: the first that was evaluated."""
        return next((one for one in self.rounds if one.metrics), None)

    @property
    def after(self) -> Round | None:
        """The last evaluated round, None where only one was."""
        last = next((one for one in reversed(self.rounds) if one.metrics), None)
        return None if last is self.before else last

    @property
    def pool(self) -> tuple[str, ...]:
        return tuple(files.listing(files.join(self.tables, "pool"), "chunk-", ".parquet"))

    @property
    def started(self) -> datetime | None:
        times = [phase.started for phase in self.phases if phase.started is not None]
        return datetime.fromtimestamp(min(times), UTC) if times else None

    def path(self, *keys: str) -> Path | None:
        """The file a config entry names, inside the run folder if it is there, else as it is named (pairs of one's own); None
        without one."""
        value = dig(self.config, *keys)
        if not isinstance(value, str):
            return None
        # The run folder may have been moved since: the name below it still holds.
        tail = value.replace("{output}", "").removeprefix(str(self.config.get("output", "\0"))).lstrip("/")
        inside = self.folder / tail
        return next((path for path in (inside, Path(value).expanduser()) if path.is_file()), None)


def gather(folder: Path, tables: str | None = None) -> Facts:
    """Everything but the tables.

    Args:
        folder: The run folder, or a copy of its small files.
        tables: Address of the run folder with the chunk files; None: they are in `folder`.

    Raises:
        InputError: If `folder` is no folder.
    """
    if not folder.is_dir():
        raise InputError(
            f"expected the folder of a run; found nothing at `{folder}`. Name the `output` of a pipeline that was run"
        )
    numbers = sorted(int(match[1]) for path in folder.glob("round-*") if (match := re.fullmatch(r"round-(\d+)", path.name)))
    tables = str(folder) if tables is None else tables
    return Facts(
        folder=folder,
        tables=tables,
        config=_read_yaml(folder / "config.yaml"),
        plan=_read_json(folder / "plan.json"),
        rounds=tuple(_round(folder / f"round-{number}", files.join(tables, f"round-{number}"), number) for number in numbers),
        phases=_phases(folder / "events"),
        pairings=_pairings(folder / "events"),
    )


def dig(value: Any, *keys: str) -> Any:
    """`value[a][b]…`, None as soon as something is missing or not a mapping."""
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def interval(value: Any) -> tuple[float, float] | None:
    """A pair of numbers as (low, high), None for anything else."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(is_number(end) for end in value):
        return float(value[0]), float(value[1])
    return None


def read_lines(path: Path) -> tuple[Json, ...]:
    """The objects of a .jsonl file; a line that was cut by a crash is left out."""
    found = []
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    value = json.loads(line)
                except ValueError:
                    continue
                if isinstance(value, dict):
                    found.append(value)
    except OSError:
        return ()
    return tuple(found)


def _round(folder: Path, tables: str, number: int) -> Round:
    return Round(
        number=number,
        folder=folder,
        tables=tables,
        metrics=_read_json(folder / "metrics.json"),
        summary=_read_json(folder / "selection" / "summary.json"),
        manifest=_read_json(folder / "dataset" / "manifest.json"),
        logs={name: read_lines(folder / "training" / name / "log.jsonl") for name in _trainings(folder / "training")},
    )


def _trainings(folder: Path) -> list[str]:
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [*(name for name in found if name not in FINETUNED), *(name for name in FINETUNED if name in found)]


def _phases(folder: Path) -> tuple[Phase, ...]:
    """Seconds per phase, in the order in which they first started; a resumed phase adds up."""
    found: dict[str, Phase] = {}
    for line in read_lines(folder / "phases.jsonl"):
        name, seconds = line.get("phase"), line.get("seconds")
        if not isinstance(name, str) or not isinstance(seconds, int | float) or not is_number(seconds):
            continue
        started = _seconds(line.get("started"))
        if name in found:
            before = found[name]
            found[name] = Phase(name, before.seconds + seconds, before.started if before.started is not None else started)
        else:
            found[name] = Phase(name, float(seconds), started)
    return tuple(found.values())


def _pairings(folder: Path) -> dict[int, Json]:
    """The last line of each round in events/pairing.jsonl."""
    found: dict[int, Json] = {}
    for line in read_lines(folder / "pairing.jsonl"):
        if match := re.fullmatch(r"round-(\d+)/candidates", str(line.get("phase"))):
            found[int(match[1])] = line
    return found


def _seconds(value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value) if is_number(value) else None
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None


def _read_json(path: Path) -> Json:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _read_yaml(path: Path) -> Json:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
