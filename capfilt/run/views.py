"""Deciding again about a run: a named view, and its data set where it is asked for. The run's own selection stays.

Knows no stage but those that decide.
"""

from pathlib import Path
from typing import Any

from capfilt import __version__
from capfilt.config.pipeline import Pipeline
from capfilt.config.round import WriteConfig
from capfilt.config.select import SelectConfig
from capfilt.errors import ConfigError


def select_again(
    run_folder: Path, name: str, settings: Pipeline, *, round_number: int | None, write: bool
) -> tuple[dict[str, Any], Path]:
    """What was kept, and the view's folder.

    Args:
        settings: Of the run, with what is to be decided otherwise.
        round_number: None: the last one.
        write: The view's data set too, not only its uids and texts.

    Raises:
        ConfigError: If there is no `select` section.
    """
    from capfilt.stages.select import select_view

    if settings.select is None:
        raise ConfigError(
            f"{run_folder}: expected a `select` section in its config, found none. Give one: --set select.min_itm=0.5"
        )
    summary = select_view(run_folder, name, settings.select, settings.dedup, round_number)
    rounds = (
        [run_folder / f"round-{round_number}"] if round_number is not None else sorted(run_folder.glob("round-*"), key=_number)
    )
    view = next(folder / "views" / name for folder in reversed(rounds) if (folder / "views" / name).is_dir())
    if write:
        _write(run_folder, view, settings)
    return summary, view


def _write(run_folder: Path, view: Path, settings: Pipeline) -> None:
    """The data set of a view, in the view's own folder."""
    from capfilt.stages.write import write

    made_in = view.parent.parent
    write(
        settings.write or WriteConfig(),
        policy=settings.select or SelectConfig(),
        selection=str(view / "selection.parquet"),
        candidates=[str(path) for path in sorted((made_in / "candidates").glob("chunk-*.parquet"))],
        pool=[str(path) for path in sorted((run_folder / "pool").glob("chunk-*.parquet"))],
        out=str(view / "dataset"),
        card={"name": f"{settings.name}, view {view.name}", "version": __version__, "round": _number(made_in)},
    )


def _number(round_folder: Path) -> int:
    text = round_folder.name.removeprefix("round-")
    return int(text) if text.isdigit() else -1
