"""Pairs of stored image embeddings and texts, from Parquet files: the line's own (column `embedding` of a round's candidates) or
anybody's.

Knows nothing of networks, rounds or runs.

Axes at the end of array names: P embeddings, N pairs, E width of an embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.config.train import Embeddings
from capfilt.errors import InputError
from capfilt.schema import UPSTREAM
from capfilt.sources.tables import open_table

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmbeddingPairs:
    """N pairs over P embeddings."""

    embed_PE: Float32Array
    texts: list[str]
    """[N]"""
    embedding_of: Int64Array
    """[N], row of `embed_PE`."""

    def __len__(self) -> int:
        return len(self.texts)


def read_embeddings(
    files: Sequence[str | Path],
    *,
    embedding: str = "embedding",
    text: str = "text",
    where: Mapping[str, Any] | None = None,
    min_itm: float = 0.5,
) -> EmbeddingPairs:
    """All pairs of the Parquet files, in their order; rows without an embedding and blank texts are left out.

    Args:
        embedding: Column of lists of numbers, all of one length.
        text: Column of texts, or of lists of texts: all are learnt. Or the `captions` of a candidates table: of these, the texts
            that no rule rejected and the first filter gives at least `min_itm`.
        where: Column -> value; only rows that have these, such as those of one data source. A name that is no column is one of
            the carried columns, which a candidates table holds in `upstream`.

    Raises:
        InputError: If a file is missing, lacks a column, or embeddings differ in width, or none is left.
    """
    asked = dict(where or {})
    parts: list[Float32Array] = []
    texts: list[str] = []
    embedding_of: list[int] = []
    rows = 0
    for path in files:
        file = open_table(str(path), [embedding, text], "embeddings and texts")
        places = [_place(file.schema_arrow, name, str(path)) for name in asked]
        table = file.read(columns=[embedding, text, *places])
        told = [_told(one, min_itm) for one in table[text].to_pylist()]
        values = zip(*(_values(table, place) for place in places), strict=True) if asked else [()] * len(told)
        has_vector = table[embedding].is_valid().to_pylist()
        kept = [
            bool(own and valid and [*mine] == [*asked.values()])
            for own, valid, mine in zip(told, has_vector, values, strict=True)
        ]
        if not any(kept):
            continue
        parts.append(_vectors(table[embedding].filter(pa.array(kept)), str(path)))
        if parts[-1].shape[1] != parts[0].shape[1]:
            raise InputError(
                f"{path}: expected embeddings of width {parts[0].shape[1]}, found {parts[-1].shape[1]}; take those of one model"
            )
        for own in (own for own, is_kept in zip(told, kept, strict=True) if is_kept):
            texts += own
            embedding_of += [rows] * len(own)
            rows += 1
    if not parts:
        raise InputError(
            f"{', '.join(map(str, files)) or 'no file'}: expected rows with `{embedding}` and `{text}`"
            f"{f' where {asked}' if asked else ''}, found none; check the columns' names and values"
        )
    return EmbeddingPairs(np.concatenate(parts), texts, np.asarray(embedding_of, dtype=np.int64))


def embedding_files(config: Embeddings) -> list[str]:
    """The Parquet files of `paths`, those of a folder in the order of their names.

    Raises:
        InputError: If a path matches nothing.
    """
    found: list[str] = []
    for path in config.paths:
        system, inner = fsspec.core.url_to_fs(path)
        hits = sorted(system.glob(f"{inner.rstrip('/')}/*.parquet" if system.isdir(inner) else inner))
        if not hits:
            raise InputError(
                f"finetune.captioner.embeddings.paths: expected Parquet files at {path}, found none; correct the path"
            )
        found += [str(system.unstrip_protocol(hit)) if "://" in path else str(hit) for hit in hits]
    return found


def stored_pairs(config: Embeddings) -> EmbeddingPairs:
    """What a pipeline's `embeddings` names; see `read_embeddings`."""
    asked = {"embedding": config.embedding, "text": config.text}
    return read_embeddings(embedding_files(config), **asked, where=config.where, min_itm=config.min_itm)


def _place(schema: pa.Schema, name: str, path: str) -> str:
    """The column itself, or `upstream.NAME`."""
    if name in schema.names:
        return name
    at = schema.get_field_index(UPSTREAM)
    carried = [field.name for field in schema.field(at).type] if at >= 0 and pa.types.is_struct(schema.field(at).type) else []
    inner = name.removeprefix(f"{UPSTREAM}.")
    if inner not in carried:
        told = f", which carries {', '.join(carried)}" if carried else ""
        raise InputError(f"{path}: expected the column {name}, found none, and none in `{UPSTREAM}`{told}. Correct its name")
    return f"{UPSTREAM}.{inner}"


def _values(table: pa.Table, place: str) -> list[Any]:
    if place in table.column_names:
        values: list[Any] = table[place].to_pylist()
    else:
        values = pc.struct_field(table[UPSTREAM], place.removeprefix(f"{UPSTREAM}.")).to_pylist()
    return values


def _told(one: str | Sequence[str | Mapping[str, Any] | None] | None, min_itm: float) -> list[str]:
    """Without blank texts, and of candidates without the rejected ones."""
    texts = [one] if isinstance(one, str) else [_kept(text, min_itm) for text in one or []]
    return [text for text in texts if text and text.strip()]


def _kept(text: str | Mapping[str, Any] | None, min_itm: float) -> str | None:
    if not isinstance(text, Mapping):
        return text
    itm = next((score["itm"] for score in text["scores"] or [] if score["itm"] is not None), None)
    is_rejected = text["rule"] is not None or text["error"] is not None or (itm is not None and itm < min_itm)
    return None if is_rejected else text["text"]


def _vectors(column: pa.ChunkedArray, path: str) -> Float32Array:
    """Lists of numbers as one array, without a Python object for each number."""
    widths = set(pc.list_value_length(column).to_pylist())
    if len(widths) != 1:
        raise InputError(f"{path}: expected embeddings of one width, found {sorted(widths)}; take those of one model")
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks])
    return flat.astype(np.float32).reshape(len(column), widths.pop())
