"""What is wrong with a config, in words: where, what was found, what may stand there, and the nearest name.

Works on any `Section`; knows nothing about single settings.
"""

import re
from difflib import get_close_matches
from functools import reduce
from operator import or_
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from capfilt.config.base import SEVERAL, Section
from capfilt.config.source import Place, Source

_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a section (key: value)",
    "model": "a section (key: value)",
    "model_attributes": "a section (key: value)",
}
_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


def nearest(word: str, choices: list[str]) -> str:
    """` Did you mean 'x'?` for the choice closest to `word`, or nothing."""
    lower = {choice.lower(): choice for choice in choices}
    close = get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f" Did you mean '{lower[close[0]]}'?" if close else ""


def explain(error: ValidationError, source: Source, root: Any) -> str:
    """Every problem on a line of its own, `file:line path: what`."""
    lines = [_explain_one(dict(problem), source, root) for problem in error.errors(include_url=False)]
    unique = list(dict.fromkeys(lines))
    return (
        unique[0]
        if len(unique) == 1
        else f"{source.name} has {len(unique)} problems:\n" + "\n".join(f"  {line}" for line in unique)
    )


def _explain_one(problem: dict[str, Any], source: Source, root: Any) -> str:
    kind, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    path, holder, at = _follow(tuple(problem["loc"]), root)
    where = path
    match kind:
        case "extra_forbidden":
            name = str(path[-1])
            choices = list(holder.model_fields) if holder else []
            hint = nearest(name, choices) or _elsewhere(name, path[:-1], root)
            what = f"unknown key '{name}'; expected one of {', '.join(choices)}.{hint}"
        case "missing":
            where, what = path[:-1], "key is missing; expected a value for it. Add it"
        case "union_tag_not_found" if isinstance(found, dict):
            path, what = (*path, "kind"), f"key is missing; expected one of {', '.join(_kinds(at))}. Add it"
        case "union_tag_not_found" | "model_attributes_type" | "model_type" | "dict_type" if len(_sections(at)) > 1:
            what = f"{_shown(found)} is {_typed(found)}; expected a section with `kind`, one of {', '.join(_kinds(at))}"
        case "union_tag_invalid":
            path = where = (*path, "kind")
            what = _not_one_of(context["tag"], _kinds(at))
        case "literal_error":
            what = _not_one_of(found, re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]])
        case "value_error":
            what = str(context["error"])
        case _ if kind in _BOUNDS:
            name, sign = _BOUNDS[kind]
            what = f"{_shown(found)} is out of range; expected {sign} {context[name]:g}"
        case "too_short" | "too_long":
            side, bound = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
            what = f"{context['actual_length']} entries found; expected at {side} {context[bound]}"
        case "string_pattern_mismatch":
            what = f"{_shown(found)} found; expected text of the form {context['pattern']}"
        case "finite_number":
            what = f"{_shown(found)} found; expected a finite number"
        case _:
            expected = _TYPES.get(re.sub(r"_(type|parsing|from_float)$", "", kind))
            if len(_options(at)) > 1 and not _sections(at):
                expected = "one plain value"
            what = (
                f"{_shown(found)} is {_typed(found)}; expected {expected}"
                if expected
                else f"{problem['msg']}; found {_shown(found)}"
            )
    where_told = source.place(where) if path else source.name
    return " ".join(filter(None, [where_told, ".".join(map(str, path))])) + f": {what}"


def _follow(loc: Place, root: Any) -> tuple[Place, type[Section] | None, Any]:
    """The path in the file for pydantic's `loc` (which also holds the tags of unions), the section around it, its annotation."""
    at: Any = root
    path: Place = ()
    holder: type[Section] | None = None
    for step in loc:
        options = _options(at)
        sections = _sections(at)
        lists = [option for option in options if get_origin(option) is list]
        if sections and lists:  # one or several: the step says which
            at = lists[0] if step == SEVERAL else reduce(or_, sections)
        elif len(sections) > 1:  # a tagged union: the step is a tag, not a key
            at = next((section for section in sections if step in _kinds(section)), None)
            holder = at
        elif sections:
            holder = sections[0]
            path = (*path, step)
            known = holder.model_fields.get(str(step))
            at = known.annotation if known else None
        elif options and get_origin(options[0]) in (list, tuple, dict):
            if step == "[key]":
                break
            path = (*path, step)
            at = get_args(options[0])[-1]
        else:
            break  # a union of plain types: the step names one of them
    return path, holder, at


def _sections(annotation: Any) -> list[type[Section]]:
    return [option for option in _options(annotation) if isinstance(option, type) and issubclass(option, Section)]


def _kinds(annotation: Any) -> list[str]:
    """The `kind`s a tagged union knows."""
    tagged = [section for section in _sections(annotation) if "kind" in section.model_fields]
    return [kind for section in tagged for kind in get_args(section.model_fields["kind"].annotation)]


def _options(annotation: Any) -> list[Any]:
    """The alternatives of an annotation without Annotated and None."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    return [] if annotation in (None, NoneType) or get_origin(annotation) is Literal else [annotation]


def _elsewhere(name: str, around: Place, root: Any) -> str:
    """Where a misplaced key belongs, if exactly one other section has it."""
    if not (isinstance(root, type) and issubclass(root, Section)):
        return ""
    homes = []
    for section, info in root.model_fields.items():
        if (section,) != around and any(name in inner.model_fields for inner in _sections(info.annotation)):
            homes.append(f"{section}.{name}")
    return f" It belongs to '{homes[0]}'." if len(homes) == 1 else ""


def _not_one_of(found: Any, choices: list[str]) -> str:
    if len(choices) == 1:
        return f"{_shown(found)} found; expected {choices[0]}"
    return f"{_shown(found)} is not one of {', '.join(choices)}.{nearest(str(found), choices)}"


def _shown(value: Any) -> str:
    text = {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool) or value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _typed(value: Any) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a section"
