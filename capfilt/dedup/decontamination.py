"""Rows whose picture is in an evaluation set, by equal bytes or by a close embedding.

Only pictures decide: in templated captions equal texts mean nothing, so text overlaps are merely counted.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import PurePath
from typing import Any, Protocol

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL.Image import Image

from capfilt.dedup.neighbours import matches
from capfilt.errors import InputError
from capfilt.images import ImageError, decode_rgb
from capfilt.schema import misfit_of_pairs, texts_of

_BATCH = 64
NEEDED = ("key", "image", "captions")


class EmbedsImages(Protocol):
    """The half of capfilt.filters.Embedder that is needed here."""

    def embed_images(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        """Unit-norm features, float32 [n, dim]."""
        ...


@dataclass
class EvaluationSet:
    """The pictures of evaluation files. `names`: `file#key`; `vectors` [n, dim], None without an embedder."""

    names: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    vectors: npt.NDArray[np.float32] | None = None
    texts: set[str] = field(default_factory=set)  # normalised
    undecodable: int = 0


def read_evaluation(files: Sequence[str], embedder: EmbedsImages | None) -> EvaluationSet:
    """All pictures of `files` (Parquet: key, image, captions). One that cannot be decoded still counts by its bytes; so does one
    that is not there, which has none.

    Raises:
        InputError: If a file is missing, lacks a column or has one of another type.
    """
    found = EvaluationSet()
    parts: list[npt.NDArray[np.float32]] = []
    at: list[int] = []
    for file in files:
        for batch in _batches(file):
            encoded: list[bytes] = [data or b"" for data in batch["image"].to_pylist()]
            pictures, where = _decoded(encoded, first=len(found.names))
            found.undecodable += len(encoded) - len(pictures)
            found.names += [f"{PurePath(file).name}#{key}" for key in batch["key"].to_pylist()]
            found.hashes += [sha256(data).hexdigest() for data in encoded]
            texts = [text for told in batch["captions"].to_pylist() for text in texts_of(told)]
            found.texts.update(text for text in normalised(pa.array(texts, pa.string())).to_pylist() if text)
            if embedder is not None and pictures:
                parts.append(embedder.embed_images(pictures))
                at += where
    if parts:
        vectors = np.concatenate(parts)
        found.vectors = np.zeros((len(found.names), vectors.shape[1]), dtype=np.float32)  # zero matches nothing
        found.vectors[at] = vectors
    return found


def contaminated(
    row_hashes: Sequence[str | None],
    vectors: npt.NDArray[Any],
    vector_row: npt.NDArray[np.int64],
    known: EvaluationSet,
    min_cosine: float,
) -> dict[int, tuple[str, float, str]]:
    """Row number -> (`file#key`, cosine, kind) of the closest evaluation picture; equal bytes come first.

    `vectors[i]` belongs to row number `vector_row[i]`; rows without a vector are compared by their bytes.
    """
    hits: dict[int, tuple[str, float, str]] = {}
    if known.vectors is not None and len(known.vectors):
        rows, keys, cosine = matches(vectors, known.vectors, min_cosine)
        for row, key, value in zip(vector_row[rows].tolist(), keys.tolist(), cosine.tolist(), strict=True):
            if row not in hits or value > hits[row][1]:
                hits[row] = (known.names[key], value, "cosine")
    by_hash: dict[str, str] = {}
    for digest, name in zip(known.hashes, known.names, strict=True):
        by_hash.setdefault(digest, name)
    for row, row_hash in enumerate(row_hashes):
        if row_hash is not None and row_hash in by_hash:
            hits[row] = (by_hash[row_hash], 1.0, "sha256")
    return hits


def normalised(texts: pa.Array) -> pa.Array:
    """Lower case, white space collapsed, ends and final punctuation cut: what counts as the same text."""
    lower = pc.replace_substring_regex(pc.utf8_lower(texts), pattern=r"\s+", replacement=" ")
    return pc.utf8_trim(lower, characters=" .!?,;:")


def _batches(file: str) -> Iterator[pa.Table]:
    try:
        parquet = pq.ParquetFile(fsspec.open(file, "rb").open() if "://" in file else file)
    except (OSError, pa.ArrowInvalid) as problem:
        raise InputError(
            f"dedup.decontaminate: expected a Parquet file of pairs; found `{file}`: {problem}. Correct the path"
        ) from None
    missing = [name for name in NEEDED if name not in parquet.schema_arrow.names]
    if missing:
        raise InputError(
            f"dedup.decontaminate: expected the columns {list(NEEDED)} in `{file}`; found no {missing}. Name a file of pairs"
        )
    misfit = misfit_of_pairs(parquet.schema_arrow, NEEDED)
    if misfit is not None:
        raise InputError(f"dedup.decontaminate: {misfit} of `{file}`. Write it so, or name another file")
    with parquet:
        for batch in parquet.iter_batches(batch_size=_BATCH, columns=list(NEEDED)):
            yield pa.Table.from_batches([batch])


def _decoded(encoded: list[bytes], first: int) -> tuple[list[Image], list[int]]:
    """The pictures that can be decoded, and their numbers, counted from `first`."""
    pictures, at = [], []
    for number, data in enumerate(encoded, first):
        with suppress(ImageError):
            pictures.append(decode_rgb(data))
            at.append(number)
    return pictures, at
