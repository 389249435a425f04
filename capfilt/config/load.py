"""A pipeline file as a typed, frozen `Pipeline`: YAML, `--set` overrides, `{output}`, and all mistakes at once with their lines.

Knows nothing about running it; touches no file but the YAML.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from capfilt.config.base import Section, is_operational
from capfilt.config.downstream import Evaluation
from capfilt.config.explain import explain, nearest
from capfilt.config.find import bundled, find_yaml
from capfilt.config.pipeline import Pipeline
from capfilt.config.source import Place, Source, as_yaml, override, parse
from capfilt.errors import ConfigError

__all__ = [
    "find_yaml",
    "fold",
    "load_evaluation",
    "load_pipeline",
    "load_section",
    "load_text",
    "output_setting",
    "result_settings",
]


def load_pipeline(path: str | Path, overrides: Sequence[str] = (), limit: int | None = None) -> Pipeline:
    """Read a pipeline file, or a bundled pipeline by its name.

    Args:
        overrides: `path=value` each, as after `--set`; the value is YAML.
        limit: Take the first `limit` rows only, in a run folder of its own (`…-limit-N`). Pass it to `run_pipeline` too.

    Raises:
        ConfigError: Lists every problem with file, line, what was found and what may stand there.
    """
    file = find_yaml(path, "pipelines")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected a readable YAML file in UTF-8, found {error}. Check the file") from None
    return load_text(text, str(file), overrides, limit)


def load_text(text: str, name: str = "pipeline", overrides: Sequence[str] = (), limit: int | None = None) -> Pipeline:
    """`load_pipeline` for YAML that is already in memory; `name` stands in messages."""
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit: expected at least 1 row, found {limit}. Give a greater number or leave it out")
    source = parse(text, name)
    if not isinstance(source.tree, dict):
        found = "an empty file" if source.tree is None else f"a {type(source.tree).__name__}"
        raise ConfigError(f"{name}: expected `key: value` sections, found {found}. Start from pipelines/quickstart.yaml")
    for assignment in overrides:
        override(source, assignment)
    _resolve_output(source, limit)
    try:
        # Through JSON, because pydantic's strict mode takes a list for a tuple only there; strict refuses "2" for 2.
        return Pipeline.model_validate_json(json.dumps(_without_null_sections(source.tree)), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, source, Pipeline)) from None


def _without_null_sections(tree: dict[str, Any]) -> dict[str, Any]:
    """A section that is never missing (`screen`, say) and stands there as null has its defaults, as if it were left out."""
    has_defaults = {name for name, field in Pipeline.model_fields.items() if isinstance(field.default, Section)}
    return {name: value for name, value in tree.items() if value is not None or name not in has_defaults}


def load_evaluation(path: str | Path, overrides: Sequence[str] = ()) -> Evaluation:
    """Read the file of `capfilt evaluate`, or a bundled one by its name.

    Raises:
        ConfigError: Lists every problem with file, line, what was found and what may stand there.
    """
    file = _tasks_file(path)
    try:
        source = parse(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected a readable YAML file in UTF-8, found {error}. Check the file") from None
    if not isinstance(source.tree, dict):
        raise ConfigError(f"{file}: expected `model` and `tasks`, found {source.tree!r}. docs/evaluate.md shows such a file")
    for assignment in overrides:
        override(source, assignment)
    try:
        return Evaluation.model_validate_json(json.dumps(source.tree), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, source, Evaluation)) from None


def _tasks_file(path: str | Path) -> Path:
    file, ours = Path(path), bundled("pipelines") / "tasks"
    if file.exists():
        return file
    named = ours / f"{str(path).removesuffix('.yaml')}.yaml"
    if file.parent == Path() and named.is_file():
        return named
    choices = sorted(known.stem for known in ours.glob("*.yaml"))
    raise ConfigError(
        f"{path}: expected a file of tasks, found none. Give a path or one of: {', '.join(choices)}."
        + nearest(file.stem, choices)
    )


def load_section(text: str, name: str, kind: Any) -> Any:
    """One section by itself: `kind` is its class or tagged union; `name` stands in messages.

    Raises:
        ConfigError: Lists every problem.
    """
    source = parse(text, name)
    try:
        return TypeAdapter(kind).validate_json(json.dumps(source.tree), strict=True)
    except ValidationError as error:
        raise ConfigError(explain(error, source, kind)) from None


def result_settings(pipeline: Pipeline) -> dict[str, Any]:
    """What the fingerprint is made of: every setting that is not operational, as JSON values.

    Paths inside the run folder are written with `{output}`, so that a run that was moved keeps its fingerprint.
    """
    settings = _without_operational(pipeline)
    assert isinstance(settings, dict)
    folded = _map_strings(settings, lambda text, _: fold(text, pipeline.output))
    assert isinstance(folded, dict)
    return folded


def fold(path: str, output: str) -> str:
    """`path` with `{output}` for the run folder, so that a run can be moved. A text that merely equals the folder stays."""
    inside = output and path.startswith(output.rstrip("/") + "/")
    return "{output}" + path[len(output.rstrip("/")) :] if inside else path


def output_setting(folder: str) -> str:
    """The override that makes just this folder the run's, whatever its name means in YAML."""
    return f"output={as_yaml(folder)}"


def _without_operational(value: Any) -> Any:
    if isinstance(value, Section):
        fields = type(value).model_fields
        return {name: _without_operational(getattr(value, name)) for name, field in fields.items() if not is_operational(field)}
    if isinstance(value, dict):
        return {key: _without_operational(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_operational(inner) for inner in value]
    return value


def _resolve_output(source: Source, limit: int | None) -> None:
    """Put the run folder for `{output}`, the only placeholder, wherever it stands."""
    output = source.tree.get("output")
    if not isinstance(output, str) or not output:
        return  # missing or no text: validation says so
    if "{" in output:
        raise ConfigError(
            f"{source.place(('output',))} output: expected a plain folder, found '{output}'. Write it without braces"
        )
    output = os.path.expanduser(output)  # a shell leaves `--set output=~/run` as it is
    if re.fullmatch(r"[\w+-]+://+", output):
        raise ConfigError(
            f"{source.place(('output',))} output: expected a folder, found an address without one, '{output}'. Write it out, "
            "such as s3://bucket/run"
        )
    output = (output.rstrip("/") or "/") + (f"-limit-{limit}" if limit is not None else "")

    def resolve(text: str, path: Place) -> str:
        unknown = [name for name in re.findall(r"\{(\w+)\}", text) if name != "output"]
        if unknown:
            dotted = ".".join(map(str, path))
            raise ConfigError(
                f"{source.place(path)} {dotted}: expected {{output}}, the only placeholder, "
                f"found '{{{unknown[0]}}}'. Write the value out"
            )
        return text.replace("{output}", output)

    source.tree = _map_strings({**source.tree, "output": output}, resolve)


def _map_strings(value: Any, change: Any, path: Place = ()) -> Any:
    """The same tree with `change(text, path)` for every text."""
    if isinstance(value, str):
        return change(value, path)
    if isinstance(value, dict):
        return {key: _map_strings(inner, change, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_map_strings(inner, change, (*path, index)) for index, inner in enumerate(value)]
    return value
