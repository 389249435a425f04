"""Rows worth showing: a fixed, varied few of every fate, and their pictures.

The same tables give the same rows. Keeps at most a few hundred rows in memory; reads image bytes of the chosen rows only.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.identity import content_hash
from capfilt.run import files
from capfilt.run.commit import chunk_path
from capfilt.stages.chunks import open_parquet

KINDS: dict[str, float] = {
    "rescued": 0.30,
    "both": 0.15,
    "web_only": 0.10,
    "neither": 0.20,
    "duplicate": 0.06,
    "contaminated": 0.06,
    "rule": 0.08,
    "other": 0.05,
    "undecided": 1.0,
}
"""Share of the cards per kind; what one kind cannot fill goes to the others, in this order."""

LOOKED_AT = 64
"""Rows of one kind looked at per batch: a picture book needs no census."""


@dataclass(frozen=True)
class Card:
    """A row to show. `reasons` is parallel to `captions`, None where nothing was decided."""

    kind: str
    row_id: str
    uid: str
    url: str
    text: str | None
    status: str
    error: str | None
    captions: list[dict[str, Any]]
    reasons: list[str] | None
    contaminated_by: str | None
    variety: str

    @property
    def chunk(self) -> str:
        return self.row_id.rpartition("-")[0]


@dataclass
class Choice:
    """Takes rows batch by batch; `cards()` gives those to show, grouped by kind in the order of KINDS."""

    limit: int
    _heaps: dict[str, list[tuple[int, str, Card]]] = field(default_factory=dict)

    def offer(
        self,
        batch: pa.Table,
        kind: npt.NDArray[np.object_],
        variety: npt.NDArray[np.object_],
        fate: pa.Table | None,
    ) -> None:
        """Remember the rows of `batch` whose hashed ids come first in their kind."""
        if self.limit <= 0:
            return
        for name in KINDS:
            at = np.flatnonzero(kind == name)
            if len(at) > LOOKED_AT:
                at = at[np.linspace(0, len(at) - 1, LOOKED_AT).astype(np.int64)]
            for row in at:
                row_id = batch["row_id"][row].as_py()
                order = -int(content_hash("card", row_id, size=8), 16)
                heap = self._heaps.setdefault(name, [])
                if len(heap) >= 2 * self.limit and order <= heap[0][0]:
                    continue
                card = _card(batch, int(row), name, str(variety[row]), fate)
                (heapq.heappush if len(heap) < 2 * self.limit else heapq.heapreplace)(heap, (order, row_id, card))

    def cards(self) -> list[Card]:
        ready = {name: _varied([card for _, _, card in sorted(self._heaps.get(name, ()), reverse=True)]) for name in KINDS}
        taken = {name: min(len(ready[name]), round(self.limit * share)) for name, share in KINDS.items()}
        while sum(taken.values()) > self.limit:
            taken[next(name for name in reversed(KINDS) if taken[name])] -= 1
        for name in KINDS:
            room = self.limit - sum(taken.values())
            taken[name] += min(room, len(ready[name]) - taken[name])
        return [card for name in KINDS for card in ready[name][: taken[name]]]


def _varied(cards: list[Card]) -> list[Card]:
    """Rows whose web text fell to a rule come in only every fourth place: they all look alike."""
    plain, ruled = [card for card in cards if card.variety != "rule"], [card for card in cards if card.variety == "rule"]
    out: list[Card] = []
    while plain or ruled:
        use_rule = ruled and (not plain or len(out) % 4 == 3)
        out.append(ruled.pop(0) if use_rule else plain.pop(0))
    return out


def _card(batch: pa.Table, row: int, kind: str, variety: str, fate: pa.Table | None) -> Card:
    captions = batch["captions"][row].as_py() or []
    codes = fate["reason"][row].as_py() if fate is not None else None
    return Card(
        kind=kind,
        row_id=batch["row_id"][row].as_py(),
        uid=batch["uid"][row].as_py() or "",
        url=batch["url"][row].as_py() or "",
        text=batch["text"][row].as_py() if "text" in batch.column_names else None,
        status=batch["status"][row].as_py(),
        error=batch["error"][row].as_py(),
        captions=captions,
        reasons=codes if codes is not None and len(codes) == len(captions) else None,
        contaminated_by=fate["contaminated_by"][row].as_py() if fate is not None else None,
        variety=variety,
    )


def pictures(pool: str, row_ids: Iterable[str]) -> dict[str, bytes]:
    """Encoded bytes of the given rows; a row that is not there, or has none, is left out. One row group in memory at a time."""
    wanted: dict[str, set[str]] = {}
    for row_id in row_ids:
        wanted.setdefault(row_id.rpartition("-")[0], set()).add(row_id)
    found: dict[str, bytes] = {}
    for chunk, ids in sorted(wanted.items()):
        path = chunk_path(pool, chunk)
        if files.exists(path):
            found |= column_where(path, "row_id", ids, "image")
    return found


def column_where(path: Path | str, key: str, wanted: Iterable[str], column: str) -> dict[str, Any]:
    """`column` by `key` for the wanted keys, nulls left out; row groups without a wanted key are not read further."""
    value_set = pa.array(sorted(wanted), pa.string())
    found: dict[str, Any] = {}
    with open_parquet(str(path)) as file:
        if key not in file.schema_arrow.names or column not in file.schema_arrow.names:
            return {}
        for group in range(file.num_row_groups):
            keys = file.read_row_group(group, columns=[key])[key]
            at = pc.indices_nonzero(pc.is_in(keys.combine_chunks(), value_set=value_set))
            if len(at) == 0:
                continue
            for name, value in zip(keys.take(at).to_pylist(), _take(file, group, column, at), strict=True):
                if value is not None:
                    found.setdefault(name, value)
    return found


def rows_where(path: Path, key: str, wanted: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Several columns at once, as dictionaries: for small tables such as the truth."""
    out: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for column in columns:
        for name, value in column_where(path, key, wanted, column).items():
            out[name][column] = value
    return {name: values for name, values in out.items() if values}


def _take(file: pq.ParquetFile, group: int, column: str, at: pa.Array) -> list[Any]:
    # Image columns are taken batch by batch: a row group may hold gigabytes of them.
    out: list[Any] = []
    start, rows = 0, at.to_pylist()
    for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=[column]):
        inside = [row - start for row in rows if start <= row < start + batch.num_rows]
        out += batch.column(0).take(pa.array(inside, pa.int64())).to_pylist() if inside else []
        start += batch.num_rows
    return out
