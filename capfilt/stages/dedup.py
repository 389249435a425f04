"""Dedup: embeddings of a candidates table -> neighbour pairs and overlaps with evaluation sets, once.

Records; who survives is `select`'s decision, and may be taken again at any higher threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from capfilt.config.round import DedupConfig
from capfilt.dedup import records
from capfilt.dedup.decontamination import EmbedsImages, contaminated, normalised, read_evaluation
from capfilt.dedup.neighbours import NPROBE, Neighbours, neighbours
from capfilt.schema import EMBEDDING
from capfilt.stages.chunks import local_folder, read_chunks
from capfilt.writers.whole import whole_folder, write_json

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pictures:
    """The healthy rows of a candidates table, sorted by row id. `vectors[i]` (float16) belongs to row `vector_row[i]`."""

    row_ids: list[str]
    hashes: list[str | None]
    vectors: npt.NDArray[np.float16]
    vector_row: IntArray
    texts: list[str]  # web texts, normalised


def dedup(config: DedupConfig, candidates: Sequence[str], out: str, *, embedder: EmbedsImages | None) -> dict[str, Any]:
    """Write pairs.parquet, contamination.parquet and summary.json into the folder `out`; give back the summary.

    Compared are healthy rows only: by the filter's image embedding, as stored in the candidates, and by the hash of the bytes as
    served. `embedder` must be the filter that made the embeddings; without one, evaluation pictures are compared by bytes alone.
    Memory: 10 bytes per row and embedding dimension.

    Raises:
        InputError: If an evaluation file is missing or lacks a column.
        ConfigError: If far too many pairs pass `min_cosine`.
    """
    pictures = _pictures(candidates)
    same, firsts = _equal_bytes(pictures.hashes)
    near = _near(pictures, firsts, config.min_cosine)
    known = read_evaluation(config.decontaminate, embedder if len(pictures.vectors) else None)
    hits = contaminated(pictures.hashes, pictures.vectors, pictures.vector_row, known, config.min_cosine)

    ids = pa.array(pictures.row_ids, pa.string())
    facts = {"min_cosine": config.min_cosine, "rows": len(ids), "method": near.method}
    overlaps = sum(text in known.texts for text in pictures.texts)
    summary = {
        **facts,
        "nprobe": NPROBE,
        "embedded": len(pictures.vectors),
        "pairs": {"sha256": len(same), "cosine": len(near.a)},
        "cut_rows": near.cut_rows,
        "contaminated": len(hits),
        "evaluation": {
            "files": [PurePath(path).name for path in config.decontaminate],
            "pictures": len(known.names),
            "undecodable": known.undecodable,
            "equal_web_texts": overlaps,  # told, not acted upon
        },
    }
    with whole_folder(local_folder(out)) as folder:
        records.write_table(_pair_table(ids, same, near), folder / records.PAIRS_FILE, facts)
        records.write_table(_hit_table(pictures.row_ids, hits), folder / records.CONTAMINATION_FILE, facts)
        write_json(folder / records.SUMMARY_FILE, summary)
    return summary


def _pictures(candidates: Sequence[str]) -> Pictures:
    row_ids: list[str] = []
    hashes: list[str | None] = []
    texts: list[str] = []
    vectors: list[npt.NDArray[np.float16]] = []
    rows: list[IntArray] = []
    for table in read_chunks(candidates, ["status", "sha256", "text", EMBEDDING]):
        table = table.filter(pc.equal(table["status"], "ok"))
        if EMBEDDING in table.column_names and table.num_rows:
            has_vector = table[EMBEDDING].is_valid()
            column = table[EMBEDDING].filter(has_vector).combine_chunks()
            flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float16, copy=False)
            vectors.append(flat.reshape(-1, column.type.list_size))
            rows.append(np.flatnonzero(has_vector.to_numpy()).astype(np.int64) + len(row_ids))
        row_ids += table["row_id"].to_pylist()
        hashes += table["sha256"].to_pylist()
        texts += [text for text in normalised(table["text"]).to_pylist() if text]
    return Pictures(
        row_ids,
        hashes,
        np.concatenate(vectors) if vectors else np.zeros((0, 1), np.float16),
        np.concatenate(rows) if rows else np.zeros(0, np.int64),
        texts,
    )


def _equal_bytes(hashes: list[str | None]) -> tuple[list[tuple[int, int]], npt.NDArray[np.bool_]]:
    """(first, other) row numbers of equal bytes, and which rows are the first of their bytes."""
    first_of: dict[str, int] = {}
    pairs = []
    is_first = np.ones(len(hashes), dtype=np.bool_)
    for row, digest in enumerate(hashes):
        if digest is None:
            continue
        first = first_of.setdefault(digest, row)
        if first != row:
            pairs.append((first, row))
            is_first[row] = False
    return pairs, is_first


def _near(pictures: Pictures, firsts: npt.NDArray[np.bool_], min_cosine: float) -> Neighbours:
    """Close pairs among rows that are the first of their bytes, as row numbers. The others hang on those already."""
    searched = firsts[pictures.vector_row]
    row = pictures.vector_row[searched]
    near = neighbours(pictures.vectors[searched], min_cosine)
    return Neighbours(row[near.a], row[near.b], near.cosine, near.method, near.cut_rows)


def _pair_table(ids: pa.Array, same: list[tuple[int, int]], near: Neighbours) -> pa.Table:
    a = np.concatenate([np.array([pair[0] for pair in same], np.int64), near.a])
    b = np.concatenate([np.array([pair[1] for pair in same], np.int64), near.b])
    cosine = np.concatenate([np.ones(len(same), np.float32), near.cosine])
    kind = pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(np.array([0, 1], np.int8), [len(same), len(near.a)])), pa.array(["sha256", "cosine"])
    ).cast(pa.string())
    order = pa.array(np.lexsort((b, a)))
    table = pa.Table.from_arrays([ids.take(pa.array(a)), ids.take(pa.array(b)), pa.array(cosine), kind], schema=records.PAIRS)
    return table.take(order)


def _hit_table(row_ids: list[str], hits: dict[int, tuple[str, float, str]]) -> pa.Table:
    rows = sorted(hits)
    columns = [
        [row_ids[row] for row in rows],
        [hits[row][0] for row in rows],
        [hits[row][1] for row in rows],
        [hits[row][2] for row in rows],
    ]
    return pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns, records.CONTAMINATION, strict=True)],
        schema=records.CONTAMINATION,
    )
