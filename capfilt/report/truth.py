"""What is true about the shown pictures, where the run kept the truth aside: only the report and `evaluate` may look.

Answers for a few chosen rows; without a truth table it knows nothing and says so by None.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capfilt.miniweb.language import is_true
from capfilt.miniweb.world import Scene
from capfilt.report.choice import rows_where


@dataclass(frozen=True)
class Truth:
    """Rows of truth.parquet by the URL of the picture."""

    by_url: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, path: Path | None, urls: Iterable[str]) -> "Truth":
        wanted = sorted({url for url in urls if url})
        if path is None or not wanted:
            return cls({})
        return cls(rows_where(path, "url", wanted, ("text_is_true", "noise_kind", "scene")))

    def about(self, url: str, text: str, origin: str) -> bool | None:
        """Whether every attribute and relation that `text` states holds for the picture at `url`."""
        row = self.by_url.get(url, {})
        if origin == "web":
            told = row.get("text_is_true")
            return bool(told) if told is not None else None
        try:
            return is_true(text, Scene.from_json(row["scene"]))
        except (KeyError, TypeError, ValueError):
            return None  # a table of another make: no scene, or one that is told differently

    def noise_kind(self, url: str) -> str | None:
        kind = self.by_url.get(url, {}).get("noise_kind")
        return str(kind) if kind else None
