"""The truth about a pool's texts, and the held-out pairs, as read from their files.

A small web knows what each picture shows (`scene`), so every text about it can be judged. Of real pictures somebody knows only
which web texts are right: a synthetic text then has no truth.

Knows nothing of models or scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.errors import InputError
from capfilt.miniweb.language import is_true, states_whole_scene
from capfilt.miniweb.world import Scene
from capfilt.schema import texts_of
from capfilt.sources.tables import open_pairs, open_table

TRUTH_NAMES = ("url", "uid", "key")


@dataclass(frozen=True)
class Truth:
    """What is known about one picture and its web text."""

    text_is_true: bool
    noise_kind: str
    scene_json: str | None

    @cached_property
    def scene(self) -> Scene | None:
        return None if self.scene_json is None else Scene.from_json(self.scene_json)

    def is_true(self, text: str) -> bool | None:
        """True where everything that the text states holds; None where the scene is not known."""
        return None if self.scene is None else is_true(text, self.scene)

    def is_whole(self, text: str) -> bool | None:
        """True where the text is true and leaves nothing out; None where the scene is not known."""
        return None if self.scene is None else states_whole_scene(text, self.scene)


@dataclass(frozen=True)
class Heldout:
    """Evaluation pairs: per image its key, encoded bytes and texts."""

    keys: list[str]
    images: list[bytes]
    captions: list[list[str]]


def read_heldout(path: str) -> Heldout:
    """Held-out pairs in the file's order; blank texts are left out, and so are images without text.

    Raises:
        InputError: If the file is missing, lacks a column or has one of another type, or holds no pair.
    """
    columns = ("key", "image", "captions")
    found = ((row, texts_of(row["captions"])) for row in _rows(open_pairs(path, columns), path, columns))
    rows = [(row, texts) for row, texts in found if texts]
    if not rows:
        raise InputError(f"{path}: expected images with captions, found none; name another `evaluate.heldout`")
    return Heldout([row["key"] for row, _ in rows], [row["image"] or b"" for row, _ in rows], [texts for _, texts in rows])


def read_truth(path: str) -> dict[str, Truth]:
    """Truth by each name that a row has: url or uid (web rows), key (held-out rows). The first of equal names counts.

    The columns `url`, `uid`, `key` and `scene` may be missing.

    Raises:
        InputError: If the file is missing, lacks text_is_true or noise_kind, or a row has no name.
    """
    found: dict[str, Truth] = {}
    for number, row in enumerate(read_rows(path, ("text_is_true", "noise_kind"), optional=(*TRUTH_NAMES, "scene"))):
        names = [row[name] for name in TRUTH_NAMES if row.get(name) is not None]
        if not names:
            raise InputError(f"{path}: expected a url, uid or key in every row, found none in row {number}; name that row's pair")
        known = Truth(bool(row["text_is_true"]), row["noise_kind"], row.get("scene"))
        for name in names:
            found.setdefault(name, known)
    return found


def read_rows(path: str, columns: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Rows with these columns, and those of `optional` that the file has.

    Raises:
        InputError: If the file is missing, no Parquet, or lacks a column.
    """
    table = open_table(path, columns)
    return _rows(table, path, [name for name in (*columns, *optional) if name in table.schema_arrow.names])


def _rows(table: pq.ParquetFile, path: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = table.read(columns=list(columns)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: expected a whole Parquet file, found {error}; write it again") from None
    return rows
