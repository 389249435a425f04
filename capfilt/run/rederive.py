"""A few committed rows made again, texts and scores, in the very model batches they were made in.

A row's batch is cut from its chunk's healthy rows as the stages cut it, so the shapes are the same, and on a CPU so is every bit.
Knows nothing of files that were not sampled.
"""

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.run import files
from capfilt.run.build import Job, build_stage, limit_threads, own_threads
from capfilt.run.commit import chunk_path
from capfilt.run.verify_files import Difference
from capfilt.schema import EMBEDDING

GPU_TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2}
"""Largest accepted difference of a probability, cosine or log-probability per unit where a GPU computes, whose kernels may differ
between models of GPU; also for chunks whose batches shrank. Texts are compared exactly everywhere."""

Json = dict[str, Any]


def sample(healthy: Mapping[str, int], rows: int, seed: int) -> dict[str, list[int]]:
    """`rows` rows, or all if there are fewer: by chunk, their places among its rows with status ok, which `healthy` counts."""
    names = sorted(healthy)
    ends = np.cumsum([healthy[name] for name in names]) if names else np.zeros(0, np.int64)
    total = int(ends[-1]) if len(ends) else 0
    found: dict[str, list[int]] = {}
    for number in sorted(random.Random(seed).sample(range(total), min(rows, total))):
        at = int(np.searchsorted(ends, number, side="right"))
        found.setdefault(names[at], []).append(number - (int(ends[at - 1]) if at else 0))
    return found


def rederive(job: Job, chosen: Mapping[str, Sequence[int]], shrunk: Collection[str], advice: str) -> Iterator[Difference]:
    """A Difference for each row whose texts, scores or embedding come out otherwise.

    Args:
        job: Candidates of a round, with its models.
        shrunk: Ids of chunks whose model batches were halved for want of GPU memory.
    """
    if not any(chosen.values()):
        return
    with own_threads():
        caption, score = _Captions(job), _Scores(job)
        for chunk_id, places in chosen.items():
            chunk, is_shrunk = _Chunk.read(job, chunk_id), chunk_id in shrunk
            told = [*caption.differing(chunk, places, is_shrunk), *score.differing(chunk, places, is_shrunk)]
            for row, (again, stored) in told:
                yield Difference(f"{job.name}/chunk-{chunk_id}.parquet row {row}", again, stored, advice)


@dataclass(frozen=True)
class _Chunk:
    """A pool chunk's healthy rows, and the same rows of the candidates."""

    pool: pa.Table
    candidates: pa.Table

    @classmethod
    def read(cls, job: Job, chunk_id: str) -> "_Chunk":
        tables = []
        for folder in (job.pool, job.folder):
            with files.open_file(chunk_path(folder, chunk_id)) as file:
                tables.append(pq.read_table(file).replace_schema_metadata(None))
        is_ok = pc.equal(tables[0]["status"], "ok")
        return cls(tables[0].filter(is_ok), tables[1].filter(is_ok))


Told = tuple[int, tuple[str, str]]


class _Captions:
    """Texts and their log-probability."""

    def __init__(self, job: Job) -> None:
        config, resources = job.pipeline.caption, job.pipeline.resources.caption
        assert config is not None
        self._threads, self._size = resources.threads, config.batch_size
        self._tolerance = GPU_TOLERANCE[config.dtype]
        self._is_exact = resources.gpus == 0
        limit_threads(self._threads)
        self._stage = build_stage("caption", job)

    def differing(self, chunk: _Chunk, places: Sequence[int], is_shrunk: bool) -> Iterator[Told]:
        limit_threads(self._threads)
        tolerance = 0.0 if self._is_exact and not is_shrunk else self._tolerance
        for begin, here in _batches(places, self._size):
            made = self._stage(chunk.pool.slice(begin, self._size)).select(["row_id", "status", "captions"]).to_pylist()
            for place in here:
                again, stored = made[place - begin], chunk.candidates.slice(place, 1).to_pylist()[0]
                yield from _compare(again, stored, _texts, tolerance)


class _Scores:
    """ITM, ITC and the embedding of the stored texts."""

    def __init__(self, job: Job) -> None:
        config, resources = job.pipeline.filter, job.pipeline.resources.filter
        self._stage = None
        if config is not None:
            self._threads, self._size = resources.threads, config.batch_size
            self._tolerance = GPU_TOLERANCE[config.dtype]
            self._is_exact = resources.gpus == 0
            limit_threads(self._threads)
            self._stage = build_stage("filter", job)

    def differing(self, chunk: _Chunk, places: Sequence[int], is_shrunk: bool) -> Iterator[Told]:
        if self._stage is None:
            return
        limit_threads(self._threads)
        tolerance = 0.0 if self._is_exact and not is_shrunk else self._tolerance
        # The filter saw the rows that the captioner left healthy; their batches are counted among those.
        is_seen = np.array(
            [status in ("ok", "filter_failed") for status in chunk.candidates["status"].to_pylist()], dtype=np.bool_
        )
        entered = _unscored(chunk.candidates.filter(pa.array(is_seen)), chunk.pool["image"].filter(pa.array(is_seen)))
        moved = np.cumsum(is_seen) - 1
        seen = [int(moved[place]) for place in places if is_seen[place]]
        stored_rows = np.flatnonzero(is_seen)
        for begin, here in _batches(seen, self._size):
            made = self._stage(entered.slice(begin, self._size)).select(["row_id", "captions", EMBEDDING]).to_pylist()
            for place in here:
                stored = chunk.candidates.slice(int(stored_rows[place]), 1).to_pylist()[0]
                yield from _compare(made[place - begin], stored, _scores, tolerance)


def _batches(places: Sequence[int], size: int) -> Iterator[tuple[int, list[int]]]:
    """First row of each model batch that holds a sampled row, and the sampled rows in it."""
    found: dict[int, list[int]] = {}
    for place in places:
        found.setdefault(place // size * size, []).append(place)
    yield from sorted(found.items())


def _unscored(table: pa.Table, image: pa.ChunkedArray) -> pa.Table:
    """Candidates as they entered the filter."""
    rows = table["captions"].to_pylist()
    bare = [None if texts is None else [{**text, "scores": []} for text in texts] for texts in rows]
    names = table.column_names
    healthy = pa.array(["ok"] * table.num_rows, pa.string())
    table = table.set_column(names.index("captions"), "captions", pa.array(bare, table.schema.field("captions").type))
    table = table.set_column(names.index("status"), "status", healthy).append_column("image", image)
    return table.drop_columns([EMBEDDING]) if EMBEDDING in names else table


def _texts(row: Json) -> Json:
    made = [text for text in row["captions"] or [] if text["origin"] == "synthetic"]
    return {f"text {text['k']} of {text['captioner']}": (text["text"], text["log_prob"]) for text in made}


def _scores(row: Json) -> Json:
    vector = row.get(EMBEDDING)
    found: Json = {"embedding": None if vector is None else [float(value) for value in vector]}
    for number, text in enumerate(row["captions"] or []):
        for score in text["scores"]:
            for kind in ("itm", "itc"):
                found[f"{kind} of text {number} by {score['filter']}"] = score[kind]
    return found


def _compare(again: Json, stored: Json, facts: Callable[[Json], Json], tolerance: float) -> Iterator[Told]:
    """The first fact in which two rows differ."""
    new, old = facts(again), facts(stored)
    for name in sorted({*new, *old}):
        if not _same(new.get(name), old.get(name), tolerance):
            yield int(stored["row_id"].rpartition("-")[2]), (f"{name}: {_brief(new.get(name))}", f"{_brief(old.get(name))}")
            return


def _same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        if math.isnan(a) or math.isnan(b):
            return math.isnan(a) and math.isnan(b)
        return _float32(a) == _float32(b) or abs(a - b) <= tolerance * max(1.0, abs(b))
    return bool(a == b)


def _float32(value: float) -> npt.NDArray[np.float32]:
    """As a column stores it."""
    return np.asarray(value, dtype=np.float32)


def _brief(value: Any) -> str:
    text = f"{value:.9g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
