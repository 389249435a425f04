"""The truth about a small web, and the held-out pairs, as read from their files.

Knows nothing of models or scores.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.errors import InputError
from capfilt.miniweb.language import is_true, states_whole_scene
from capfilt.miniweb.world import Scene


@dataclass(frozen=True)
class Truth:
    """What is known about one picture and its web text."""

    text_is_true: bool
    noise_kind: str
    scene_json: str

    @cached_property
    def scene(self) -> Scene:
        return Scene.from_json(self.scene_json)

    def is_true(self, text: str) -> bool:
        """True where everything that the text states holds."""
        return is_true(text, self.scene)

    def is_whole(self, text: str) -> bool:
        """True where the text is true and leaves nothing out."""
        return states_whole_scene(text, self.scene)


@dataclass(frozen=True)
class Heldout:
    """Evaluation pairs: per image its key, encoded bytes and texts."""

    keys: list[str]
    images: list[bytes]
    captions: list[list[str]]


def read_heldout(path: str) -> Heldout:
    """Held-out pairs in the file's order; images without text are left out.

    Raises:
        InputError: If the file is missing, lacks a column or holds no pair.
    """
    rows = [row for row in read_rows(path, ("key", "image", "captions")) if row["captions"]]
    if not rows:
        raise InputError(f"{path}: expected images with captions, found none; name another `evaluate.heldout`")
    return Heldout([row["key"] for row in rows], [row["image"] for row in rows], [list(row["captions"]) for row in rows])


def read_truth(path: str) -> dict[str, Truth]:
    """Truth by url (web rows) and by key (held-out rows). The first of equal urls counts."""
    found: dict[str, Truth] = {}
    for row in read_rows(path, ("url", "key", "text_is_true", "noise_kind", "scene")):
        name = row["url"] if row["url"] is not None else row["key"]
        found.setdefault(name, Truth(bool(row["text_is_true"]), row["noise_kind"], row["scene"]))
    return found


def read_rows(path: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows with these columns.

    Raises:
        InputError: If the file is missing, no Parquet, or lacks a column.
    """
    try:
        table = pq.ParquetFile(cast(BinaryIO, fsspec.open(path, "rb").open()))
    except FileNotFoundError:
        raise InputError(f"{path}: expected a Parquet file, found none; check the path") from None
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: expected a Parquet file, found {error}; write it again") from None
    lacking = sorted(set(columns) - set(table.schema_arrow.names))
    if lacking:
        raise InputError(f"{path}: expected the columns {', '.join(columns)}, found no {', '.join(lacking)}; name another file")
    rows: list[dict[str, Any]] = table.read(columns=list(columns)).to_pylist()
    return rows
