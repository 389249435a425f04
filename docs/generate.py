"""Writes the pages that are made from code: configuration.md from the config classes, schema.md from capfilt/schema.py.

`make docs` runs it; a test compares the committed pages with what it gives.
"""

import inspect
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from capfilt.config.architectures import Architecture
from capfilt.config.base import Section, is_operational
from capfilt.config.downstream import Evaluation
from capfilt.config.pipeline import Pipeline
from capfilt.config.words import words_of

WHOLE_FILES = ("pipeline file", "architecture file", "evaluation file")
NOTE = "<!-- Written by docs/generate.py (make docs); change the code, not this page. -->\n"


def configuration() -> str:
    """The page of every key of a pipeline file, of an architecture file and of the file of `capfilt evaluate`."""
    parts = [
        NOTE,
        "# Configuration\n",
        "Every key a pipeline file may have, section by section, in the order in which a run meets them; at the end,",
        "the keys of an architecture file (`models/*.yaml`) and of the file of `capfilt evaluate`. Unknown keys are",
        "refused. *result* keys are part of a run's fingerprint: changing one is refused for a run that has begun",
        "(`--fresh` or `--from` say otherwise). *operational* keys may change between two starts. `{output}` in any text",
        "is the run folder; it is the only placeholder. `--set a.b.0.c=value` overrides one value. Words:",
        "[glossary](glossary.md).\n",
    ]
    done: set[type[Section]] = set()
    parts += _section("pipeline file", Pipeline, False, done)
    parts += ["# Architecture files\n"]
    for family in get_args(Architecture):
        kind = get_args(family.model_fields["kind"].annotation)[0]
        parts += _section(f"architecture file (kind: {kind})", family, False, done)
    parts += [
        "# Evaluation file\n",
        "What `capfilt evaluate` reads ([evaluate.md](evaluate.md)). A change of a *result* key measures the task anew.\n",
    ]
    parts += _section("evaluation file", Evaluation, False, done)
    return "\n".join(parts).rstrip() + "\n"


def _section(title: str, section: type[Section], operational: bool, done: set[type[Section]]) -> list[str]:
    """The table of `section`, then those of the sections inside it, each once."""
    if section in done:
        return []
    done.add(section)
    doc = inspect.cleandoc(section.__doc__ or "") if section.__doc__ != Section.__doc__ else ""
    words = {name: text.replace("|", "\\|") for name, text in words_of(section).items()}
    rows = []
    inner: list[tuple[str, type[Section], bool]] = []
    for name, field in section.model_fields.items():
        is_op = operational or is_operational(field)
        meaning = words.get(name, "")
        rows.append(
            f"| `{name}` | {_type(_full(field))} | {_default(field)} | {'operational' if is_op else 'result'} | {meaning} |"
        )
        for child in _sections(field.annotation):
            kind = child.model_fields.get("kind")
            tag = f" (kind: {get_args(kind.annotation)[0]})" if kind and len(_sections(field.annotation)) > 1 else ""
            path = name if title in WHOLE_FILES else f"{title.split(' (')[0]}.{name}"
            if title.startswith("architecture file ("):
                path = f"{title.removesuffix(')').split(': ')[1]}.{name}"
            inner.append((path + tag, child, is_op))
    level = "##" if title in WHOLE_FILES or "." not in title else "###"
    out = [f"{level} {title}\n", *([doc.split("\n\n")[0].replace("\n", " ") + "\n"] if doc else [])]
    out += ["| key | value | default | | meaning |", "|---|---|---|---|---|", *rows, ""]
    for path, child, is_op in inner:
        out += _section(path, child, is_op, done)
    return out


def _full(field: FieldInfo) -> Any:
    """The annotation with the bounds that pydantic moved to `metadata`."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [
            f"{sign} {getattr(mark, name):g}"
            for held in annotation.__metadata__
            for mark in (held.metadata if isinstance(held, FieldInfo) else [held])
            for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
            if getattr(mark, name, None) is not None
        ]
        return " ".join([_type(parts[0]), ", ".join(bounds)]).strip()
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"list of {_type(parts[0])}"
    if origin is tuple:
        return f"list of {len(parts)}: {', '.join(_type(part) for part in parts)}"
    if origin is dict:
        return f"section of {_type(parts[0])}: {_type(parts[1])}"
    if parts:
        tagged = [section for section in _sections(annotation) if "kind" in section.model_fields]
        if tagged:
            kinds = dict.fromkeys(f"`{get_args(section.model_fields['kind'].annotation)[0]}`" for section in tagged)
            several = ", or a list of them" if _has_list(annotation) else ""
            return f"section, `kind` one of {', '.join(kinds)}{several}" + (" or null" if type(None) in parts else "")
        return " or ".join(_type(part) for part in parts)
    plain = {int: "whole number", float: "number", str: "text", bool: "true, false", type(None): "null"}
    return plain.get(annotation, "section")


def _has_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(_has_list, get_args(annotation)))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    value = field.default
    if isinstance(value, Section):
        value = value.model_dump(mode="json", exclude_unset=True)
        return "its defaults" if not value else f"`{json.dumps(value)}`"
    return f"`{json.dumps(value)}`"


PAIR_READERS = (
    ("`dedup.decontaminate`", "`key`, `image`, `captions`", ""),
    ("`pretrain.human`, `finetune.human`", "`image`, `captions`", ""),
    ("`evaluate.heldout`", "`key`, `image`, `captions`", ""),
    ("`pretrain.labelled`", "`image` and the labels, in the column that `labelled.column` names", ""),
    (
        "`evaluate.truth`",
        "`text_is_true` (boolean), `noise_kind` (text), and in each row a `url`, `uid` or `key`",
        "`scene`: JSON, of the small web",
    ),
    ("`pretrain.web` (kind: capfilt)", "`image`, `all_captions`", ""),
)
"""Who reads files of pairs: the setting, the columns it needs, those it uses where they are."""


def schema() -> str:
    """The page of every column, from the contract."""
    import pyarrow as pa

    from capfilt import schema as contract

    def table(of: pa.Schema | pa.StructType) -> list[str]:
        return ["| column | type |", "|---|---|", *[f"| `{field.name}` | `{field.type}` |" for field in of], ""]

    parts = [
        NOTE,
        "# Schema\n",
        f"Version {contract.SCHEMA_VERSION}. Names follow DataComp and img2dataset. Stages add columns;",
        "rows are tagged, never dropped, until `write`.\n",
        "## Pool and candidates\n",
        "`pool/chunk-*.parquet` and `round-N/candidates/chunk-*.parquet`; candidates hold no `image`.\n",
        "| column | type | written by | meaning |",
        "|---|---|---|---|",
    ]
    for column in contract.COLUMNS:
        kind = "list&lt;caption&gt;" if column.name == "captions" else f"`{column.type}`"
        parts.append(f"| `{column.name}` | {kind} | {', '.join(column.by)} | {column.meaning} |")
    parts += [
        "| `upstream` | struct | read | the input columns named in `read.keep_columns`; absent for none |",
        "| `embedding` | `fixed_size_list<halffloat>` | filter | candidates: the picture's feature, unit norm; null for none |",
        "",
        f"`status` is one of {', '.join(f'`{name}`' for name in get_args(contract.Status))}.\n",
        "## A caption\n",
        "One candidate text of a row. `captioner` and `k` (its n-th text) are null for web texts; `rule` names the screen",
        "rule that rejected the text; `error` says why a score or text is missing; `scores` has one entry per filter: the",
        "probability `itm` and the cosine `itc`.\n",
        *table([contract.CAPTION.field(index) for index in range(contract.CAPTION.num_fields)]),
        "## Selection\n",
        "`round-N/selection/selection.parquet`, and that of a view; `kept` and `reason` are parallel to `captions`.\n",
        *table(contract.SELECTION),
        "| reason | meaning |",
        "|---|---|",
        *[f"| `{code}` | {meaning} |" for code, meaning in contract.REASONS.items()],
        "",
        "## Data set\n",
        "`round-N/dataset/parquet/*.parquet`; the WebDataset shards hold the same as `.jpg`, `.txt` (the caption) and `.json`.",
        "`text` stays the web text as found; `caption` is the kept text with the best score.\n",
        *table(contract.DATASET)[:-1],
        f"| `{contract.UPSTREAM}` | struct of the columns that `read.keep_columns` names; not there where it names none |",
        "",
        "## Pairs\n",
        "Files of your own that a pipeline names. This is the whole row; each reader needs only some of its columns, and",
        "ignores all others.\n",
        *table(contract.PAIRS),
        "`captions` (`all_captions`) may hold one text in place of a list. `image` holds the encoded file, nothing around it: of",
        "Hugging Face's struct, its field `bytes`. Other types are refused.\n",
        "| named in | required columns | optional |",
        "|---|---|---|",
        *[f"| {named} | {required} | {optional} |" for named, required, optional in PAIR_READERS],
        "",
    ]
    return "\n".join(parts).rstrip() + "\n"


def pages() -> dict[str, str]:
    """File name -> text, for every generated page."""
    return {"configuration.md": configuration(), "schema.md": schema()}


if __name__ == "__main__":
    for name, text in pages().items():
        (Path(__file__).parent / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}")
