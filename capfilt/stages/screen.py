"""Screen: cheap rules. Image rules tag the row; text rules tag only the web text, so that its picture still gets a synthetic one.

Turns columns into what capfilt/filters/rules.py asks for, and its answers into columns; holds no rule itself.
"""

from typing import Any

import pyarrow as pa

from capfilt.config.screen import MaxValue, MinValue, ScreenConfig
from capfilt.errors import InputError
from capfilt.filters.rules import rejects_image, rejects_text
from capfilt.schema import CAPTION, UPSTREAM


class ScreenStage:
    """Writes `captions` with the web text as its only entry; an empty list where the input has no text (null)."""

    name = "screen"
    reads: tuple[str, ...] = ("row_id", "status", "error", "text", "original_width", "original_height")
    writes: tuple[str, ...] = ("status", "error", "captions")

    def __init__(self, config: ScreenConfig) -> None:
        self._config = config
        self._columns = [rule.column for rule in config.image if isinstance(rule, MaxValue | MinValue)]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Raises InputError if a rule names a column that is not carried."""
        upstream = self._carried(table)
        widths, heights = table["original_width"].to_pylist(), table["original_height"].to_pylist()
        status, error = table["status"].to_pylist(), table["error"].to_pylist()
        for row in range(table.num_rows):
            rule = rejects_image(self._config.image, width=widths[row], height=heights[row], upstream=upstream[row])
            if rule is not None:
                status[row], error[row] = "rule_rejected", rule
        captions = [self._captions(text) for text in table["text"].to_pylist()]
        columns = {"status": (status, pa.string()), "error": (error, pa.string()), "captions": (captions, pa.list_(CAPTION))}
        for name, (values, kind) in columns.items():
            field, array = pa.field(name, kind), pa.array(values, kind)
            at = table.schema.get_field_index(name)
            table = table.append_column(field, array) if at < 0 else table.set_column(at, field, array)
        return table

    def _captions(self, text: str | None) -> list[dict[str, Any]]:
        if text is None:
            return []
        return [
            {
                "text": text,
                "origin": "web",
                "captioner": None,
                "k": None,
                "log_prob": None,
                "rule": rejects_text(self._config.text, text),
                "error": None,
                "scores": [],
            }
        ]

    def _carried(self, table: pa.Table) -> list[dict[str, Any]]:
        """The carried values that rules look at, per row."""
        if not self._columns:
            return [{}] * table.num_rows
        has_upstream = UPSTREAM in table.column_names
        found = [field.name for field in table.schema.field(UPSTREAM).type] if has_upstream else []
        for column in self._columns:
            if column not in found:
                raise InputError(
                    f"screen.image: a rule reads the carried column `{column}`, found {found or 'no carried columns'}. "
                    f"Add `{column}` to `read.keep_columns`"
                )
        return [values or {} for values in table[UPSTREAM].to_pylist()]
