"""Image-text pairs from files: the raw pool, a written data set, human texts. Every (image, text) is one pair.

Knows nothing of batches, tokens or networks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from capfilt.errors import InputError
from capfilt.schema import texts_of
from capfilt.sources.tables import open_pairs, open_table
from capfilt.training.pictures import CACHE_BYTES, Change, Pictures

Kind = Literal["pool", "dataset", "human", "labelled"]
Int64Array = npt.NDArray[np.int64]
ROWS_AT_ONCE = 256

COLUMNS: dict[Kind, tuple[str, ...]] = {
    "pool": ("image", "status", "captions"),
    "dataset": ("image", "all_captions"),
    "human": ("image", "captions"),
    "labelled": ("image",),
}


@dataclass(frozen=True)
class Labels:
    """Where a labelled picture's labels stand, and what they are called."""

    column: str
    names: Sequence[str] | None = None
    """Of label 0, 1, 2 …; None where labels are texts already."""


@dataclass(frozen=True)
class WebPairs:
    """Where web pairs come from: `pool` is the raw pool's chunk files (round 0), `dataset` the shards a round wrote."""

    files: tuple[str, ...]
    kind: Literal["pool", "dataset"]


@dataclass(frozen=True)
class PairSet:
    """N pairs over P pictures."""

    pictures: Pictures
    texts: list[str]
    """[N]"""
    picture_of: Int64Array
    """[N], index into `pictures`."""
    image_ids: Int64Array
    """[P], from the picture's bytes."""

    def __len__(self) -> int:
        return len(self.texts)


def read_pairs(
    files: Sequence[str],
    kind: Kind,
    image_px: int,
    *,
    spool: Path,
    cache_bytes: int = CACHE_BYTES,
    threads: int = 2,
    change: Change | None = None,
    labels: Labels | None = None,
) -> PairSet:
    """All pairs of the files, in their order; blank texts are left out.

    Of the pool: web texts that no screen rule rejected, of rows with status `ok`. Of a data set: every kept text. Of human
    pairs: every caption, be it one text or a list. Of labelled pictures: the name of every label.

    Args:
        image_px: Side of the square pictures.
        spool: A file that may be written where the pictures do not fit into `cache_bytes`; it goes with `pictures.close()`.
        change: Of the pictures, each time they are taken (augmentation).
        labels: Of labelled pictures.

    Raises:
        InputError: If a label has no name, a file is missing, lacks a column or has one of another type, holds a broken
            picture, or all hold no pair.
    """
    columns = [*COLUMNS[kind], *([labels.column] if labels is not None else [])]
    # The pool's captions are more than texts.
    opened = open_table if kind == "pool" else open_pairs
    tables = [opened(path, columns, "pairs") for path in files]
    pictures = Pictures(
        image_px,
        sum(table.metadata.num_rows for table in tables),
        spool=spool,
        cache_bytes=cache_bytes,
        threads=threads,
        change=change,
    )
    texts: list[str] = []
    picture_of: list[int] = []
    for path, table in zip(files, tables, strict=True):
        for first, batch in _batches(table, columns):
            texts_of = _texts(batch, kind) if labels is None else _names(batch, labels, path)
            rows = [(row, found) for row, found in enumerate(texts_of) if found]
            images = batch["image"]
            at = pictures.add([images[row].as_py() or b"" for row, _ in rows], [f"{path}, row {first + row}" for row, _ in rows])
            for index, (_, found) in zip(at, rows, strict=True):
                texts += found
                picture_of += [index] * len(found)
    if not texts:
        pictures.close()
        where = f"{files[0]} and {len(files) - 1} more" if len(files) > 1 else (files[0] if files else "no file")
        raise InputError(
            f"{where}: expected pairs to train on, found none ({kind}); see what was kept, or lower `select`'s thresholds"
        )
    return PairSet(pictures, texts, np.array(picture_of, dtype=np.int64), pictures.image_ids())


def _batches(table: pq.ParquetFile, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(first row, columns) of every `ROWS_AT_ONCE` rows."""
    first = 0
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=list(columns)):
        yield first, {name: batch.column(name) for name in batch.schema.names}
        first += batch.num_rows


def _texts(batch: dict[str, Any], kind: Kind) -> Iterator[list[str]]:
    """Texts of each row."""
    match kind:
        case "pool":
            for status, captions in zip(batch["status"].to_pylist(), batch["captions"].to_pylist(), strict=True):
                of_web = [c["text"] for c in captions or [] if c["origin"] == "web" and c["rule"] is None and c["error"] is None]
                yield texts_of(of_web) if status == "ok" else []
        case "dataset":
            yield from map(texts_of, batch["all_captions"].to_pylist())
        case "human":
            yield from map(texts_of, batch["captions"].to_pylist())
        case "labelled":
            raise ValueError("labelled pictures need `labels`")
        case _:
            assert_never(kind)


def _names(batch: dict[str, Any], labels: Labels, path: str) -> Iterator[list[str]]:
    """What the labels of each row are called."""
    for found in batch[labels.column].to_pylist():
        own = found if isinstance(found, list) else [found]
        yield texts_of([_name(label, labels, path) for label in own if label is not None])


def _name(label: object, labels: Labels, path: str) -> str:
    if isinstance(label, str):
        return label
    if labels.names is not None and isinstance(label, int) and 0 <= label < len(labels.names):
        return labels.names[label]
    expected = (
        "texts, or `names` for numbers" if labels.names is None else f"numbers below {len(labels.names)}, one for each name"
    )
    raise InputError(
        f"{path}, column {labels.column}: expected {expected}, found {label!r}; correct the file or `labelled.names`"
    )
