"""One walk over the tables of a round: counts for the funnel, scores for the curves, and rows worth showing.

Reads candidates and selection side by side, a few thousand rows in memory at a time; never opens a picture.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.config.select import SelectConfig
from capfilt.report.choice import Choice
from capfilt.report.words import code_of
from capfilt.stages.chunks import open_parquet
from capfilt.stages.combine import judged_scores, scores_by_filter

ROWS_AT_ONCE = 4096
FINE = 1000
"""Score bins between 0 and 1: fine enough that a threshold such as 0.15 falls on an edge."""

ORIGINS = ("web", "synthetic")
COLUMNS = ("row_id", "uid", "url", "text", "status", "error", "captions")
PASSING = ("kept", "not_chosen", "duplicate", "contaminated")
MAX_GROUPS = 2000
"""Duplicate groups remembered on the way; the shown ones are chosen among them."""

Objects = npt.NDArray[np.object_]


@dataclass
class Texts:
    """All texts of one origin. `bins` counts scores per thousandth, those below 0 (of a cosine) at 0."""

    count: int = 0
    scored: int = 0
    reached: int = 0  # scored at or above the threshold
    reasons: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(FINE, dtype=np.int64))

    @property
    def passing(self) -> int:
        return sum(self.reasons[reason] for reason in PASSING)

    @property
    def noise_ratio(self) -> float | None:
        """Share of the scored texts that the filter rejects."""
        return 1 - self.reached / self.scored if self.scored else None


@dataclass
class Scan:
    """What the tables say. `has_selection` is False where the run ended before `select`."""

    has_candidates: bool
    has_selection: bool
    choice: Choice
    rows: int = 0
    status: Counter[str] = field(default_factory=Counter)
    errors: dict[str, Counter[str]] = field(default_factory=dict)
    texts: dict[str, Texts] = field(default_factory=lambda: {origin: Texts() for origin in ORIGINS})
    rows_passing: int = 0  # rows with a text that passes
    rows_kept: int = 0  # rows with a kept text: the data set
    rows_lost: Counter[str] = field(default_factory=Counter)  # why a passing row is not kept
    filters: dict[str, dict[str, Texts]] = field(default_factory=dict)  # where there are several: of each, by origin
    kept_origins: Counter[str] = field(default_factory=Counter)  # web, synthetic, both: of the kept rows
    groups: dict[str, list[str]] = field(default_factory=dict)  # first row -> the other rows of its duplicate group
    duplicates: int = 0


def scan(files: Sequence[str], selection: Path | None, *, is_candidates: bool, policy: SelectConfig | None, cards: int) -> Scan:
    """Count everything in `files` (candidates, or the pool where there are none), with the fate of each text from `selection`.

    `policy` is what texts are judged by.
    """
    found = Scan(is_candidates, selection is not None, Choice(cards))
    fates = _Fates(selection)
    for batch in _batches(files):
        _add(found, batch, fates.of(batch), policy)
    return found


def _batches(files: Sequence[str]) -> Iterator[pa.Table]:
    for path in files:
        with open_parquet(path) as file:
            columns = [name for name in COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                yield pa.Table.from_batches([batch])


class _Fates:
    """The selection, read along with the candidates: both are sorted by row_id."""

    def __init__(self, path: Path | None) -> None:
        self._file = pq.ParquetFile(path) if path is not None else None
        names = ["row_id", "group", "contaminated_by", "reason"]
        self._batches = self._file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names) if self._file else iter(())
        self._waiting: list[pa.RecordBatch] = []

    def of(self, batch: pa.Table) -> pa.Table | None:
        """The selection's rows in the order of `batch`, nulls where it has none; None without a selection."""
        if self._file is None or batch.num_rows == 0:
            return None
        ids = batch["row_id"].combine_chunks()
        first, last = pc.min(ids).as_py(), pc.max(ids).as_py()
        self._waiting = [part for part in self._waiting if part["row_id"][-1].as_py() >= first]
        while not self._waiting or self._waiting[-1]["row_id"][-1].as_py() < last:
            part = next(self._batches, None)
            if part is None:
                break
            if part.num_rows:
                self._waiting.append(part)
        if not self._waiting:
            return None
        table = pa.Table.from_batches(self._waiting)
        return table.take(pc.index_in(ids, value_set=table["row_id"].combine_chunks()))


def _add(found: Scan, batch: pa.Table, fate: pa.Table | None, policy: SelectConfig | None) -> None:
    status, rows = _strings(batch["status"]), batch.num_rows
    found.rows += rows
    found.status.update(Counter(status.tolist()))
    bad = np.flatnonzero(status != "ok")
    for one, error in zip(status[bad], batch["error"].take(pa.array(bad)).to_pylist(), strict=True):
        found.errors.setdefault(one, Counter())[code_of(error)] += 1

    lists = batch["captions"].combine_chunks()
    row = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    flat = pc.list_flatten(lists)
    origin, rule = _strings(pc.struct_field(flat, "origin")), _strings(pc.struct_field(flat, "rule"))
    reason = _reasons(lists, fate, len(row))
    judge, scores = policy or SelectConfig(), pc.struct_field(flat, "scores")
    score = judged_scores(scores, judge)
    _count_texts(found, (status == "ok")[row], origin, rule, reason, score, None if policy is None else policy.threshold)
    _count_filters(found, scores, (status == "ok")[row], origin, judge)

    def rows_with(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        return np.bincount(row[mask], minlength=rows) > 0

    is_ok, passes, kept = status == "ok", rows_with(np.isin(reason, PASSING)), rows_with(reason == "kept")
    web, synthetic = (rows_with((reason == "kept") & (origin == name)) for name in ORIGINS)
    contaminated = rows_with(reason == "contaminated")
    duplicate = rows_with(reason == "duplicate") & ~contaminated
    found.rows_passing += int(passes.sum())
    found.rows_kept += int(kept.sum())
    for name, mask in (("contaminated", contaminated), ("duplicate", duplicate)):
        found.rows_lost[name] += int((mask & ~kept).sum())
    for name, mask in (("both", web & synthetic), ("web", web & ~synthetic), ("synthetic", synthetic & ~web)):
        found.kept_origins[name] += int(mask.sum())
    _remember_groups(found, batch, fate)

    kind = np.full(rows, "", dtype=object)
    for name, mask in (  # a later line overrules an earlier one
        ("neither", is_ok & ~passes),
        ("other", is_ok & passes),
        ("both", web & synthetic),
        ("rescued", synthetic & ~web),
        ("web_only", web & ~synthetic & rows_with(origin == "synthetic")),
        ("duplicate", duplicate & ~kept),
        ("contaminated", contaminated),
        ("undecided", is_ok & (fate is None)),
        ("rule", status == "rule_rejected"),
    ):
        kind[mask] = name
    has_words = rows_with((origin == "web") & (rule == ""))
    found.choice.offer(batch, kind, np.where(has_words, "text", "rule").astype(object), fate)


def _count_texts(
    found: Scan,
    is_ok: npt.NDArray[np.bool_],
    origin: Objects,
    rule: Objects,
    reason: Objects,
    score: npt.NDArray[np.float32],
    threshold: float | None,
) -> None:
    """Add the texts of a batch, arrays being parallel; those of rows that take no part are no candidates."""
    for name in ORIGINS:
        of = (origin == name) & is_ok
        texts = found.texts[name]
        texts.count += int(of.sum())
        _add_scores(texts, score[of], threshold)
        texts.reasons.update(Counter(reason[of].tolist()))
        texts.rules.update(Counter(rule[of & (rule != "")].tolist()))


def _add_scores(texts: Texts, score: npt.NDArray[np.float32], threshold: float | None) -> None:
    scores = score[~np.isnan(score)]
    texts.scored += len(scores)
    # In float32, as the candidates and `select` have it.
    texts.reached += int((scores >= np.float32(threshold or 0)).sum())
    # The epsilon: a float32 just below a bin's edge, such as 0.3, belongs above it.
    fine = np.clip((scores.astype(np.float64) * FINE + 1e-4).astype(np.int64), 0, FINE - 1)
    texts.bins += np.bincount(fine, minlength=FINE)


def _count_filters(found: Scan, scores: pa.Array, is_ok: npt.NDArray[np.bool_], origin: Objects, policy: SelectConfig) -> None:
    """Each filter's own scores, where a text has several."""
    counts = pc.fill_null(pc.list_value_length(scores), 0).to_numpy(zero_copy_only=False)
    if not found.filters and not (counts > 1).any():
        return
    of_text = np.repeat(np.arange(len(counts)), counts)
    flat = pc.list_flatten(scores)
    names = _strings(pc.struct_field(flat, "filter"))
    for name, values in scores_by_filter(scores, policy).items():
        own, text = found.filters.setdefault(name, {kind: Texts() for kind in ORIGINS}), of_text[names == name]
        for kind in ORIGINS:
            _add_scores(own[kind], values[(is_ok & (origin == kind))[text]], policy.of(name).least)


def _remember_groups(found: Scan, batch: pa.Table, fate: pa.Table | None) -> None:
    if fate is None:
        return
    ids, groups = _strings(batch["row_id"]), _strings(fate["group"])
    for at in np.flatnonzero((groups != "") & (ids != groups)):
        found.duplicates += 1
        if groups[at] in found.groups or len(found.groups) < MAX_GROUPS:
            members = found.groups.setdefault(groups[at], [])
            if len(members) < 12:
                members.append(ids[at])


def _reasons(lists: pa.ListArray, fate: pa.Table | None, size: int) -> Objects:
    """A code per text, empty where the selection has no row or lists another number of texts."""
    none = np.full(size, "", dtype=object)
    if fate is None:
        return none
    chosen = fate["reason"].combine_chunks()
    texts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    told = pc.fill_null(pc.list_value_length(chosen), 0).to_numpy().astype(np.int64)
    if (texts == told).all():
        return _strings(pc.list_flatten(chosen))
    out, start = none, 0
    for count, codes in zip(texts, chosen.to_pylist(), strict=True):
        if codes is not None and len(codes) == count:
            out[start : start + count] = codes
        start += count
    return out


def _strings(column: Any) -> Objects:
    """Python strings, empty for null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values: Objects = pc.fill_null(array, "").to_numpy(zero_copy_only=False)
    return values.astype(object)
