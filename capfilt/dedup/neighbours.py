"""Pairs of rows whose vectors are close: exact up to `EXACT_UP_TO` rows, an inverted file (IVF) above, faiss or torch.

Knows nothing about pictures, row ids or files.

The search only proposes. Float32 products differ in their last bits between batch shapes, thread counts and libraries, so it runs
with a margin below the threshold; each proposed pair is then measured again in float64 on one thread, rounded to `DIGITS` digits,
and only that number is compared. So the same vectors give the same pairs whatever the machine's number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from capfilt.errors import ConfigError

Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Hits = Iterator[tuple[IntArray, IntArray]]
Engine = Literal["auto", "faiss", "torch"]

EXACT_UP_TO = 50_000
NPROBE = 32  # cells of the inverted file looked into per row
DIGITS = 6
MARGIN = 1e-4  # far above float32's error, far below what a threshold means
STRONGEST_PER_ROW = 100
"""A row records at most so many pairs with later rows. It keeps its strongest, so a row with any later neighbour above a higher
threshold keeps one of those, and a clique stays one group at every threshold."""
MOST_HITS = 50_000_000
_BATCH = 1024
_SEED = 0


@dataclass(frozen=True)
class Neighbours:
    """Pairs a < b of row numbers, sorted, with their cosine rounded to `DIGITS` digits.

    `method` says how they were searched; `cut_rows` counts the rows that had more than `STRONGEST_PER_ROW`.
    """

    a: IntArray
    b: IntArray
    cosine: Float32Array
    method: str
    cut_rows: int


def unit_rows(vectors: npt.NDArray[Any]) -> Float32Array:
    """Float32 [n, d] of unit norm; a zero vector stays zero, so it is close to nothing."""
    exact = np.asarray(vectors, dtype=np.float32)
    norm = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.ascontiguousarray(exact / np.where(norm > 0, norm, 1), dtype=np.float32)


def neighbours(
    vectors: npt.NDArray[Any], min_cosine: float, *, engine: Engine = "auto", exact_up_to: int = EXACT_UP_TO
) -> Neighbours:
    """All pairs of rows of `vectors` [n, d] with cosine >= `min_cosine`; above `exact_up_to` rows nearly all.

    Raises:
        ConfigError: If the threshold is so low that more than `MOST_HITS` pairs pass it.
    """
    unit = unit_rows(vectors)
    is_exact = len(unit) <= exact_up_to or _chosen(engine) == "torch"
    hits, method = (close(unit, unit, min_cosine - MARGIN, engine=engine), f"exact ({_chosen(engine)})")
    if not is_exact:
        cells = int(4 * np.sqrt(len(unit)))
        hits, method = _ivf_hits(unit, min_cosine - MARGIN, cells), f"IVF (faiss, {cells} cells, nprobe {NPROBE})"
    found: list[tuple[IntArray, IntArray, Float32Array]] = []
    seen = 0
    cut = 0
    for queries, keys in hits:
        # An exact search meets each pair from both sides; an inverted file perhaps from one only.
        later = keys > queries if is_exact else keys != queries
        seen += int(later.sum())
        if seen > MOST_HITS:
            raise ConfigError(
                f"dedup.min_cosine: expected a threshold that few pictures pass; found more than {MOST_HITS:,} pairs with "
                f"cosine >= {min_cosine} among {len(unit):,} pictures. Raise it, or look at the filter: its embedding hardly "
                "tells them apart"
            )
        a, b, cosine = _measured(unit, unit, queries[later], keys[later], min_cosine)
        if is_exact:
            a, b, cosine, rows_cut = _strongest(a, b, cosine)
            cut += rows_cut
        else:
            a, b = np.minimum(a, b), np.maximum(a, b)
        found.append((a, b, cosine))
    a, b, cosine = (
        np.concatenate([part[0] for part in found]) if found else np.zeros(0, np.int64),
        np.concatenate([part[1] for part in found]) if found else np.zeros(0, np.int64),
        np.concatenate([part[2] for part in found]) if found else np.zeros(0, np.float32),
    )
    if not is_exact:
        _, first = np.unique(a * np.int64(len(unit)) + b, return_index=True)
        a, b, cosine, cut = _strongest(a[first], b[first], cosine[first])
    order = np.lexsort((b, a))
    return Neighbours(a[order], b[order], cosine[order], method, cut)


def matches(
    queries: npt.NDArray[Any], keys: npt.NDArray[Any], min_cosine: float, *, engine: Engine = "auto"
) -> tuple[IntArray, IntArray, Float32Array]:
    """(query number, key number, rounded cosine) of every pair from two sets with cosine >= `min_cosine`, sorted by query."""
    unit_q, unit_k = unit_rows(queries), unit_rows(keys)
    parts = [_measured(unit_q, unit_k, q, k, min_cosine) for q, k in close(unit_q, unit_k, min_cosine - MARGIN, engine=engine)]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    q, k, cosine = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.lexsort((k, q))
    return q[order].astype(np.int64), k[order].astype(np.int64), cosine[order].astype(np.float32)


def close(queries: Float32Array, keys: Float32Array, radius: float, *, engine: Engine = "auto") -> Hits:
    """Batches of (query, key) numbers with inner product > `radius`; exact up to float32's last bits."""
    if len(queries) == 0 or len(keys) == 0:
        return iter(())
    return _faiss_hits(queries, keys, radius) if _chosen(engine) == "faiss" else _torch_hits(queries, keys, radius)


def _chosen(engine: Engine) -> Literal["faiss", "torch"]:
    if engine != "auto":
        return engine
    try:
        import_module("faiss")
    except ImportError:
        return "torch"
    return "faiss"


def _faiss_hits(queries: Float32Array, keys: Float32Array, radius: float) -> Hits:
    faiss: Any = import_module("faiss")  # its own type hints describe the C++ side

    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)
    for start in range(0, len(queries), _BATCH):
        ends, _, found = index.range_search(queries[start : start + _BATCH], radius)
        yield _numbered(ends, start), found.astype(np.int64)


def _torch_hits(queries: Float32Array, keys: Float32Array, radius: float) -> Hits:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    keys_KD = torch.from_numpy(keys).to(device)
    for start in range(0, len(queries), _BATCH):
        scores_QK = torch.from_numpy(queries[start : start + _BATCH]).to(device) @ keys_KD.T
        q, k = torch.nonzero(scores_QK > radius, as_tuple=True)
        yield q.cpu().numpy().astype(np.int64) + start, k.cpu().numpy().astype(np.int64)


def _ivf_hits(unit: Float32Array, radius: float, cells: int) -> Hits:
    """Each row is assigned to its cells once; the first is where it is stored, all are where it looks.

    Training and assignment run on one thread: a last bit there would move a row into another cell. The search itself only adds
    along one vector per pair, which no thread splits.
    """
    faiss: Any = import_module("faiss")  # its own type hints describe the C++ side

    threads = faiss.omp_get_max_threads()
    coarse = faiss.IndexFlatIP(unit.shape[1])
    index = faiss.IndexIVFFlat(coarse, unit.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = _SEED, 10, 64
    faiss.omp_set_num_threads(1)
    try:
        index.train(unit)
        nprobe = index.nprobe = min(NPROBE, cells)
        # With few dimensions these two are the largest things in memory: four bytes each, written in place.
        near, cell = np.empty((len(unit), nprobe), np.float32), np.empty((len(unit), nprobe), np.int32)
        for start in range(0, len(unit), _BATCH):
            part = slice(start, start + _BATCH)
            near[part], cell[part] = coarse.search(unit[part], nprobe)
    finally:
        faiss.omp_set_num_threads(threads)
    home = cell[:, 0].astype(np.int64)
    index.add_core(len(unit), faiss.swig_ptr(unit), None, faiss.swig_ptr(home))
    for start in range(0, len(unit), _BATCH):
        part = slice(start, start + _BATCH)
        ends, _, found = index.range_search_preassigned(unit[part], radius, cell[part].astype(np.int64), near[part])
        yield _numbered(ends, start), found.astype(np.int64)


def _numbered(ends: npt.NDArray[Any], start: int) -> IntArray:
    """Query numbers of a range search's result, from the ends of each query's hits."""
    counts: IntArray = np.diff(ends.astype(np.int64)).astype(np.int64)
    return np.repeat(np.arange(start, start + len(counts), dtype=np.int64), counts)


def _measured(
    queries: Float32Array, keys: Float32Array, q: IntArray, k: IntArray, min_cosine: float
) -> tuple[IntArray, IntArray, Float32Array]:
    """The proposed pairs that truly pass, with their cosine in float64, rounded."""
    cosine = np.empty(len(q), dtype=np.float64)
    for start in range(0, len(q), 16_384):  # bounds the gathered copies
        part = slice(start, start + 16_384)
        cosine[part] = np.einsum("ij,ij->i", queries[q[part]].astype(np.float64), keys[k[part]].astype(np.float64))
    cosine = np.round(cosine, DIGITS)
    passes = cosine >= round(min_cosine, DIGITS)
    return q[passes], k[passes], cosine[passes].astype(np.float32)


def _strongest(a: IntArray, b: IntArray, cosine: Float32Array) -> tuple[IntArray, IntArray, Float32Array, int]:
    """At most `STRONGEST_PER_ROW` pairs per a: greatest cosine, ties by b. Also the number of rows that had more."""
    order = np.lexsort((b, -cosine, a))
    a, b, cosine = a[order], b[order], cosine[order]
    _, start, count = np.unique(a, return_index=True, return_counts=True)
    rank = np.arange(len(a)) - np.repeat(start, count)
    keep = rank < STRONGEST_PER_ROW
    return a[keep], b[keep], cosine[keep], int((count > STRONGEST_PER_ROW).sum())
