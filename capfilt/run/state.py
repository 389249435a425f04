"""The run folder between two starts: does it belong to this pipeline, what must go, what is kept.

Deletes only files that a run made. Knows nothing about how they are made.
"""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import pyarrow as pa

from capfilt.config.load import fold
from capfilt.config.pipeline import Pipeline
from capfilt.config.source import dump
from capfilt.errors import RunStateError
from capfilt.plan import ROUND_STAGES, Plan, PlannedStage, find_stage, first_touched
from capfilt.run import files
from capfilt.run.place import KNOWN
from capfilt.run.planning import changes

MAKES = {
    "pool": ("steps/retry.json", "steps/retry-quarantined.json", "pool", "steps/pool.json"),
    "candidates": ("candidates", "views"),
    "dedup": ("dedup",),
    "select": ("selection",),
    "write": ("dataset",),
    "pretrain": ("models", "training"),  # whatever their names; those that are fine-tuned from them go with them
    "finetune": ("models/captioner", "models/filter", "training/captioner", "training/filter"),
    "evaluate": ("metrics.json",),
    "report": ("report.html",),
}
VERSIONS = ("capfilt", "torch", "pyarrow", "pillow")


def start_fresh(output: str) -> None:
    """Delete what an earlier run left in `output`, a run's folder or an empty one (`place.check_place`); nothing else."""
    # config.yaml goes last: a deletion that is interrupted can be repeated.
    for path in _rounds(output, 0):
        files.remove(path)
    for name in reversed(KNOWN):
        files.remove(files.join(output, name))


def check(pipeline: Pipeline, stages: Sequence[PlannedStage], limit: int | None, start_from: str | None) -> None:
    """Refuse a run folder that was made with other settings, unless all that they touch is made anew.

    Raises:
        RunStateError: Lists every difference.
    """
    found = changes(pipeline, limit)
    if not found:
        return
    touched = first_touched(stages, [path for path, _, _ in found])
    if start_from is not None and find_stage(stages, start_from, "--from") <= touched:
        return
    listing = "\n".join(f"  {path}: {_short(old)} -> {_short(new)}" for path, old, new in found)
    advice = f"--from {stages[touched].label} redoes what they touch and keeps what precedes"
    raise RunStateError(
        f"{pipeline.output}: expected the settings this run was begun with, found {len(found)} changed:\n{listing}\n"
        f"Put them back, or choose: {advice}; --fresh starts over; another `output` keeps both"
    )


def redo_from(output: str, stages: Sequence[PlannedStage], start_from: str) -> None:
    """Delete the outputs of the stage that `--from` names, of those made together with it, and of all later ones."""
    at = find_stage(stages, start_from, "--from")
    first = next(i for i, stage in enumerate(stages) if stage.unit_label == stages[at].unit_label)
    number = stages[first].round
    doomed = [files.join(output, "report.html")]
    if stages[first].unit == "pool":
        doomed += [*_rounds(output, 0), *_marks(output, 0), *(files.join(output, name) for name in MAKES["pool"])]
        doomed.append(files.join(output, "inputs.parquet"))
    elif number is not None:
        doomed += [*_rounds(output, number + 1), *_marks(output, number + 1)]
        later = ROUND_STAGES[ROUND_STAGES.index(stages[first].name) :]
        # Later stages first: an interrupted deletion leaves no later output without what it was made from.
        for unit in reversed(list(dict.fromkeys("candidates" if name in ("caption", "filter") else name for name in later))):
            doomed.append(files.join(output, "steps", f"round-{number}-{unit}.json"))
            doomed += [files.join(output, f"round-{number}", name) for name in MAKES[unit]]
    for path in doomed:
        files.remove(path)


def record(pipeline: Pipeline, plan: Plan) -> list[str]:
    """Write config.yaml and plan.json; gives a warning for each library whose version has changed since the run began."""
    before = (files.get_json(files.join(pipeline.output, "plan.json")) or {}).get("versions", {})
    now = {name: _version(name) for name in VERSIONS}
    tree = pipeline.model_dump(mode="json")
    config = {name: value if name == "output" else _folded(value, pipeline.output) for name, value in tree.items()}
    files.put_changed(files.join(pipeline.output, "config.yaml"), dump(config).encode())
    told = {**plan.to_json(), "versions": {**now, **before}}
    if told != files.get_json(files.join(pipeline.output, "plan.json")):
        files.put_json(files.join(pipeline.output, "plan.json"), told)
    return version_warnings(pipeline.output)


def version_warnings(output: str) -> list[str]:
    """One for each library whose version has changed since the run began."""
    before = (files.get_json(files.join(output, "plan.json")) or {}).get("versions", {})
    return [
        f"warning: this run was begun with {name} {old}, now {_version(name)}: what is made now may differ in the last digits"
        for name, old in before.items()
        if name in VERSIONS and _version(name) != old
    ]


@contextmanager
def readable(output: str) -> Iterator[None]:
    """Around what reads a run's tables without making them.

    Raises:
        RunStateError: If one is damaged; it names the command that says which, and what mends it.
    """
    try:
        yield
    except pa.ArrowException as problem:
        raise RunStateError(
            f"{output}: expected readable tables, found a damaged one ({str(problem).splitlines()[0]}). capfilt verify "
            f"{shlex.quote(output)} says which, and what mends it"
        ) from problem


def limit_of(output: str) -> int | None:
    """`--limit` of the run in this folder."""
    settings = (files.get_json(files.join(output, "plan.json")) or {}).get("settings", {})
    limit: int | None = settings.get("limit")
    return limit


def _folded(value: Any, output: str) -> Any:
    """The same tree with `{output}` for the run folder, so that a run that was moved finds its own files."""
    if isinstance(value, dict):
        return {name: _folded(inner, output) for name, inner in value.items()}
    if isinstance(value, list):
        return [_folded(inner, output) for inner in value]
    return fold(value, output) if isinstance(value, str) else value


def _rounds(output: str, first: int) -> list[str]:
    """Folders round-N with N >= `first`, the latest first."""
    numbered = [(int(match[1]), path) for path in files.listing(output, "round-") if (match := re.search(r"/round-(\d+)$", path))]
    return [path for number, path in sorted(numbered, reverse=True) if number >= first]


def _marks(output: str, first: int) -> list[str]:
    found = files.listing(files.join(output, "steps"), "round-", ".json")
    return [path for path in found if (match := re.search(r"/round-(\d+)-", path)) and int(match[1]) >= first]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
