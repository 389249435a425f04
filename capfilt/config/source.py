"""YAML text as plain values that remember the line they came from, with `--set` overrides applied.

Knows nothing about what a pipeline may contain.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from capfilt.errors import ConfigError

Place = tuple[str | int, ...]
"""The keys and list places that lead from the top to a value."""


@dataclass
class Source:
    """`tree` is dicts with string keys, lists and scalars; `places` says where each path of the tree was written."""

    name: str
    tree: Any
    places: dict[Place, str] = field(default_factory=dict)
    """Keys from the top -> `file:line`, or `--set a.b=1` for what an override put there."""

    def place(self, path: Place) -> str:
        """Where `path`, or the closest thing around it, was written."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, self.name)


_TAG = "tag:yaml.org,2002:"


class _Yaml12(yaml.SafeLoader):
    """YAML 1.2's core scalars plus `1_000`: `2e-3` is a float, `no` and `12:30` are strings, there are no dates."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
):
    _Yaml12.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_pattern})$"), [*_first.replace("\0", ""), ""])


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would take for a number, a truth value or nothing."""

    yaml_implicit_resolvers = {
        first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Yaml12.yaml_implicit_resolvers.get(first, [])]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Yaml12.yaml_implicit_resolvers}
    }


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """In double quotes where it has one of Unicode's further line breaks: PyYAML writes them raw, and reads them as a space."""
    style = '"' if any(sign in text for sign in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump(tree: Any) -> str:
    """YAML that `parse` reads back to an equal tree of dicts, lists and scalars."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def as_yaml(text: str) -> str:
    """`text` as YAML that means just this text: as it is where it is read so, else in double quotes; on one line."""
    try:
        if parse(text, text).tree == text:
            return text
    except ConfigError:
        pass
    quoted: str = yaml.dump(text, Dumper=_Dumper, default_style='"', allow_unicode=True, width=math.inf)
    return quoted.rstrip("\n")


def parse(text: str, name: str) -> Source:
    """The values in YAML `text`; `name` is the file's name in messages.

    Raises:
        ConfigError: For text that is not YAML, a key that stands twice, or a tag; with file and line.
    """
    try:
        node = yaml.compose(text, Loader=_Yaml12)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = _at(name, mark) if mark else name
        raise ConfigError(
            f"{where}: expected YAML, found a mistake: {error.problem or error.context}. Correct the line"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: expected YAML in UTF-8, found {error}. Correct the file") from None
    source = Source(name, None)
    source.tree = _value(node, (), source, ()) if node is not None else None
    return source


def _at(name: str, mark: yaml.error.Mark) -> str:
    return name if name.startswith("--") else f"{name}:{mark.line + 1}"


def _value(node: yaml.Node, path: Place, source: Source, around: tuple[int, ...]) -> Any:
    where = _at(source.name, node.start_mark)
    source.places.setdefault(path, where)
    if id(node) in around:
        raise ConfigError(f"{where}: expected plain values, found an alias to what it stands in. Write the value out")
    around = (*around, id(node))
    if node.tag.removeprefix(_TAG) not in ("map", "seq", "str", "null", "bool", "int", "float"):
        raise ConfigError(f"{where}: expected plain values, found the tag `{node.tag}`. Remove the tag")
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_where = _at(source.name, key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError(f"{key_where}: expected a name before the colon, found {key_node.id}. Correct the line")
            key = str(key_node.value)
            if key in out:
                dotted = ".".join(map(str, (*path, key)))
                first = source.place((*path, key)).rsplit(":", 1)[-1]
                raise ConfigError(f"{key_where} {dotted}: expected each key once, found it in line {first} too. Keep one of them")
            source.places[(*path, key)] = key_where
            out[key] = _value(value_node, (*path, key), source, around)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, index), source, around) for index, child in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> Any:
    text = str(node.value)
    digits = text.replace("_", "")
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(digits, 0) if digits.startswith(("0x", "0o")) else int(digits)
        case "float":
            return float(digits.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            return text


def override(source: Source, assignment: str) -> None:
    """Put one `path=value` into the tree; the value is YAML, list places are numbers, the number after the last appends.

    Sections and lists that are not in the file are made; whether they may exist is for the config to say.

    Raises:
        ConfigError: If there is no `=`, the value is not YAML, or the path runs through a plain value or beyond a list's end.
    """
    dotted, equals, text = assignment.partition("=")
    said = f"--set {assignment}"
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"{said}: expected path=value such as select.min_itm=0.7, found `{assignment}`. Write it so")
    value = parse(text, said).tree
    holder, path = source.tree, ()  # type: tuple[Any, Place]
    for at, name in enumerate(keys):
        is_last = at == len(keys) - 1
        so_far = ".".join(keys[:at]) or "the file"
        if isinstance(holder, dict):
            key: str | int = name
            inner = holder.get(name)
        elif isinstance(holder, list):
            if not name.isdigit() or int(name) > len(holder):
                last = f"0 to {len(holder)} ({len(holder)} appends)"
                raise ConfigError(f"{said}: `{so_far}` is a list; expected a number from {last}, found '{name}'. Use one of them")
            key = int(name)
            if key == len(holder):
                holder.append(None)
            inner = holder[key]
        else:
            raise ConfigError(f"{said}: expected a section or list at `{so_far}`, found the value {holder!r}. Shorten the path")
        path = (*path, key)
        if is_last:
            _forget(source, path)
            source.places[path] = said
            holder[key] = value
        elif inner is None:
            source.places[path] = said
            holder[key] = inner = [] if keys[at + 1] == "0" else {}
        holder = inner


def _forget(source: Source, path: Place) -> None:
    """Lines of what is replaced would mislead."""
    for old in [place for place in source.places if place[: len(path)] == path]:
        del source.places[old]
