"""Screen: cheap rules. Image rules tag the row; text rules tag only the web text, so that its picture still gets a synthetic one.

Turns columns into what capfilt/filters/rules/ asks for, and its answers into columns; holds no rule itself. Synthetic texts do
not pass here: they are made later, and the filter judges them.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from capfilt.config.screen import MaxValue, MinValue, ScreenConfig
from capfilt.errors import InputError
from capfilt.filters.rules import ImageRules, ScreenedRow, TextRules
from capfilt.images import ImageError
from capfilt.schema import CAPTION, UPSTREAM


class ScreenStage:
    """Writes `captions` with the web text as its only entry; an empty list where the input has no text (null).

    `text` changes only where a `pii` rule masks it, and then in both places. A stored picture that a rule on pixels cannot decode
    makes its row `image_invalid`. Safe to call from several threads.
    """

    name = "screen"
    writes: tuple[str, ...] = ("status", "error", "text", "captions")

    def __init__(self, config: ScreenConfig) -> None:
        self._image_rules, self._text_rules = ImageRules(config.image), TextRules(config.text)
        self._columns = config.columns
        self._of_numbers = {rule.column: rule.kind for rule in config.image if isinstance(rule, MaxValue | MinValue)}
        reads = ("row_id", "status", "error", "text", "original_width", "original_height")
        self.reads: tuple[str, ...] = (*reads, "image") if self._image_rules.needs_image else reads

    def __call__(self, table: pa.Table) -> pa.Table:
        """Raises InputError if a rule reads a column that is not carried, or looks for numbers where there cannot be any."""
        upstream = self._carried(table)
        status, error = table["status"].to_pylist(), table["error"].to_pylist()
        sizes = zip(table["original_width"].to_pylist(), table["original_height"].to_pylist(), strict=True)
        for row, (width, height) in enumerate(sizes):
            # One picture at a time: a chunk's pictures are the largest thing in it.
            image = table["image"][row].as_py() if self._image_rules.needs_image else None
            try:
                rule = self._image_rules.judge(ScreenedRow(width, height, image, upstream[row]))
            except ImageError as broken:
                status[row], error[row] = "image_invalid", str(broken)
                continue
            if rule is not None:
                status[row], error[row] = "rule_rejected", rule
        judged = [None if text is None else self._text_rules.judge(text) for text in table["text"].to_pylist()]
        texts = [None if one is None else one.text for one in judged]
        captions = [[] if one is None else [_caption(one.text, one.rule)] for one in judged]
        for name, values, kind in (
            ("status", status, pa.string()),
            ("error", error, pa.string()),
            ("text", texts, pa.string()),
            ("captions", captions, pa.list_(CAPTION)),
        ):
            table = _put(table, name, values, kind)
        return table

    def _carried(self, table: pa.Table) -> Sequence[dict[str, Any]]:
        """The carried values that rules look at, per row."""
        if not self._columns:
            return [{}] * table.num_rows
        found = {field.name: field.type for field in table.schema.field(UPSTREAM).type} if UPSTREAM in table.column_names else {}
        for column in self._columns:
            if column not in found:
                raise InputError(
                    f"screen.image: a rule reads the carried column `{column}`, found {', '.join(found) or 'no carried column'}. "
                    f"Add `{column}` to `read.keep_columns`"
                )
            if column in self._of_numbers and not _may_be_numbers(found[column]):
                raise InputError(
                    f"screen.image: `{self._of_numbers[column]}` expects numbers in the carried column `{column}`, found "
                    f"{found[column]}. Name another column, or use `one_of`"
                )
        return [{} if row is None else row for row in table[UPSTREAM].to_pylist()]


def _may_be_numbers(kind: pa.DataType) -> bool:
    """Text may hold numbers: files without types, such as CSV, carry every column as text."""
    types = pa.types
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_string, types.is_large_string)
    return any(test(kind) for test in (*tests, types.is_null))


def _caption(text: str, rule: str | None) -> dict[str, Any]:
    return {
        "text": text,
        "origin": "web",
        "captioner": None,
        "k": None,
        "log_prob": None,
        "rule": rule,
        "error": None,
        "scores": [],
    }


def _put(table: pa.Table, name: str, values: Sequence[Any], kind: pa.DataType) -> pa.Table:
    field, array = pa.field(name, kind), pa.array(values, kind)
    at = table.schema.get_field_index(name)
    return table.append_column(field, array) if at < 0 else table.set_column(at, field, array)
