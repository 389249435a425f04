"""Records of files without a schema (lines, JSON, members of a tar) as the columns of a source."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

import pyarrow as pa

from capfilt.config.read import KeepType, Source
from capfilt.sources.carried import carried
from capfilt.sources.names import keep_type
from capfilt.sources.rows import Rows

Record = Mapping[str, Any]


def to_rows(records: Sequence[Record | bytes], candidates: Mapping[str, Sequence[str]], config: Source) -> Rows:
    """`records` as Rows; one that is bytes is a line that could not be read.

    Args:
        candidates: Ours -> theirs, of which the first with a value counts; without `image` the rows have no pictures.
    """
    broken: dict[int, tuple[str, bytes]] = {}
    columns: dict[str, list[Any]] = {ours: [] for ours in ("url", "text", "uid", "file", "image")}
    kept: list[dict[str, Any] | None] = []
    for row, record in enumerate(records):
        found = {} if isinstance(record, bytes) else record
        values = {ours: _first(found, names) for ours, names in candidates.items()}
        is_readable = not isinstance(record, bytes) and not any(
            isinstance(values.get(ours), dict | list) for ours in ("url", "text", "uid", "file")
        )
        if not is_readable:
            raw = record if isinstance(record, bytes) else json.dumps(record, sort_keys=True, default=str).encode()
            broken[row], values = ("bad_line", raw), {}
        for ours in ("url", "text", "uid", "file"):
            columns[ours].append(_as(values.get(ours), "text"))
        columns["image"].append(values.get("image") if isinstance(values.get("image"), bytes) else None)
        kept.append({name: _as(found.get(name), keep_type(name, config.keep_types)) for name in config.keep_columns})
    return Rows(
        columns["url"],
        columns["text"],
        columns["uid"],
        columns["file"],
        columns["image"] if "image" in candidates else None,
        _carried(kept, config) if config.keep_columns else None,
        broken,
    )


def _carried(values: Sequence[dict[str, Any] | None], config: Source) -> pa.StructArray:
    """The carried columns in their order, of the types that `keep_types` and the well-known names give them."""
    return pa.array(values, carried(config))


def parse_json(data: bytes) -> Record | None:
    """A JSON object, None for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first(record: Record, names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _as(value: Any, kind: KeepType) -> Any:
    """`value` as this type, None where it is none."""
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    match kind:
        case "text":
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
            return text.encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair
        case "float":
            number = _number(value)
            return None if number is None else float(number)
        case "int":
            number = _number(value)
            return int(number) if number is not None and abs(number) < 2**63 else None
        case "bool":
            return {"true": True, "1": True, "false": False, "0": False}.get(str(value).strip().lower())
        case _ as unreachable:
            assert_never(unreachable)


def _number(value: Any) -> int | float | None:
    if isinstance(value, int | float):
        number: int | float = value
    else:
        try:
            number = int(str(value)) if str(value).strip().lstrip("+-").isdecimal() else float(str(value))
        except (ValueError, OverflowError):
            return None
    try:
        return number if math.isfinite(number) else None
    except OverflowError:  # a whole number beyond every float
        return None
