"""Select: scores and pairs -> kept or a reason for every text, survivors chosen among rows with a kept text.

Reads columns only, no picture and no model, so that deciding again takes seconds; the candidates stay as they are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.config.round import DedupConfig
from capfilt.config.select import SelectConfig
from capfilt.dedup.groups import Bytes, Groups, find
from capfilt.dedup.records import recorded_contamination, recorded_groups, row_id_bytes
from capfilt.errors import ConfigError, InputError
from capfilt.schema import SELECTION
from capfilt.stages.chunks import candidate_files, local_folder, read_chunks, scored_round
from capfilt.stages.combine import scores_by_filter
from capfilt.stages.nothing import why_nothing
from capfilt.stages.policy import CODE, CODES, POLICY_COLUMNS, Judged, judge
from capfilt.stages.tally import Tally
from capfilt.writers.view import write_view
from capfilt.writers.whole import BESIDE, whole_folder, write_json

ROWS_PER_GROUP = 65_536
_KEPT, _DUPLICATE, _CONTAMINATED = CODE["kept"], CODE["duplicate"], CODE["contaminated"]


@dataclass(frozen=True)
class Known:
    """What dedup found, at the threshold asked for. `by[i]` is the evaluation picture that row `hits[i]` shows."""

    groups: Groups
    hits: Bytes
    by: pa.Array
    min_cosine: float | None


def select(
    config: SelectConfig, candidates: Sequence[str], dedup_folder: str | None, out: str, *, dedup: DedupConfig | None = None
) -> dict[str, Any]:
    """Write selection.parquet (schema.SELECTION, by row id) and summary.json into the folder `out`; give back the summary.

    `dedup` gives the threshold; None takes the recorded one. Two passes over the candidates, one chunk in memory at a time; the
    first, which finds the best row of each duplicate group, is left out where there are no pairs.

    Raises:
        ConfigError: If `dedup.min_cosine` is below the recorded threshold.
    """
    with whole_folder(local_folder(out)) as folder:
        return _select_into(folder, config, candidates, dedup_folder, dedup)


def select_view(
    run: Path, name: str, config: SelectConfig, dedup: DedupConfig | None, round_number: int | None = None
) -> dict[str, Any]:
    """Another decision over the same candidates, in `round-N/views/<name>`; the run's own selection stays. Gives its summary.

    `round_number` None is the last round with candidates. Writes selection.parquet, summary.json, view.npy and view.json.

    Raises:
        ConfigError: If the name cannot be a folder's, or the threshold is below the recorded one.
        InputError: If the run has no candidates, or is to be cleared of duplicates and has not come so far.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"expected a view's name of letters, digits, `.`, `_` and `-`; found `{name}`. Choose another")
    if name.lower().endswith(BESIDE):
        raise ConfigError(
            f"expected a view's name without `{'` or `'.join(BESIDE)}` at its end, which another view's writing deletes; found "
            f"`{name}`. Choose another"
        )
    source = scored_round(run, round_number)
    recorded = source / "dedup"
    if dedup is not None and not recorded.is_dir():
        raise InputError(
            f"{recorded}: expected the duplicates and evaluation pictures that `dedup` finds, found no such folder; the run has "
            "not come so far. Go on with it, to the end or with --until dedup; or decide without them: --set dedup=null"
        )
    dedup_folder = None if dedup is None else str(recorded)
    with whole_folder(source / "views" / name) as folder:
        summary = _select_into(folder, config, candidate_files(source), dedup_folder, dedup)
        write_view(folder / "selection.parquet", folder, settings={"name": name, **summary})
    return summary


def _select_into(
    folder: Path, config: SelectConfig, candidates: Sequence[str], dedup_folder: str | None, dedup: DedupConfig | None
) -> dict[str, Any]:
    known = _known(dedup_folder, dedup)
    survives = _survivors(config, candidates, known)
    tally = Tally()
    with pq.ParquetWriter(folder / "selection.parquet", SELECTION, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        for table in read_chunks(candidates, ["uid", *POLICY_COLUMNS]):
            waiting.append(_decide(table, config, known, survives, tally))
            if sum(part.num_rows for part in waiting) >= ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_PER_GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROWS_PER_GROUP)
    _check_scores(tally, config)
    several = len(tally.filters) > 1 or config.differs
    summary = {
        "policy": config.policy,
        "score": config.score,
        "threshold": config.threshold,
        **({"combine": config.combine} if several else {}),
        "min_cosine": known.min_cosine,
        "duplicate_groups": len(np.unique(known.groups.group)),
        **tally.summary(each_filter=several),
        **({} if tally.kept_rows else {"nothing_kept": why_nothing(tally, config)}),
    }
    write_json(folder / "summary.json", summary)
    return summary


def _check_scores(tally: Tally, config: SelectConfig) -> None:
    """A filter without the score that it is judged by would be asked in vain, and so would one that did not score."""
    mute = sorted(name for name, own in tally.filters.items() if own.texts and not own.scored)
    if mute:
        score = config.of(mute[0]).score
        alike = [name for name in mute if config.of(name).score == score]
        raise ConfigError(config.without_it(alike, score, is_one_of_several=len(tally.filters) > 1))
    if tally.filters:
        config.check_names(list(tally.filters))


def _known(dedup_folder: str | None, dedup: DedupConfig | None) -> Known:
    if dedup_folder is None:
        none = np.zeros(0, dtype="S1")
        return Known(Groups(none, np.zeros(0, np.int64)), none, pa.array([], pa.string()), None)
    groups, min_cosine = recorded_groups(Path(dedup_folder), dedup.min_cosine if dedup else None)
    hits, by = recorded_contamination(Path(dedup_folder), min_cosine)
    return Known(groups, hits, by, min_cosine)


def _survivors(config: SelectConfig, candidates: Sequence[str], known: Known) -> npt.NDArray[np.bool_]:
    """For each group member, whether it is its group's survivor.

    That is the row with the best kept text which shows no evaluation picture, ties by row id; where no row qualifies, the
    smallest, so that every group has exactly one.
    """
    members = known.groups.members
    best = np.full(len(members), -1, dtype=np.float32)
    if len(members):
        for table in read_chunks(candidates, POLICY_COLUMNS):
            number, is_member = find(members, row_id_bytes(table["row_id"]))
            if is_member.any():
                best[number[is_member]] = judge(table.filter(pa.array(is_member)), config).best
        best[find(known.hits, members)[1]] = -1
    order = np.lexsort((np.arange(len(members)), -best, known.groups.group))
    _, first = np.unique(known.groups.group[order], return_index=True)
    survives = np.zeros(len(members), dtype=np.bool_)
    survives[order[first]] = True
    return survives


def _decide(table: pa.Table, config: SelectConfig, known: Known, survives: npt.NDArray[np.bool_], tally: Tally) -> pa.Table:
    judged = judge(table, config)
    ids = row_id_bytes(table["row_id"])
    number, is_member = find(known.groups.members, ids)
    hit, is_hit = find(known.hits, ids)
    survivor = ~is_member
    group = table["row_id"].combine_chunks()
    if is_member.any():
        survivor[is_member] = survives[number[is_member]]
        names = np.where(is_member, known.groups.names(number), b"").astype("U")
        group = pc.if_else(pa.array(is_member), pa.array(names, pa.string()), group)
    by = known.by.take(pa.array(hit, mask=~is_hit)) if len(known.by) else pa.nulls(len(ids), pa.string())
    reason = _final_reason(judged, survivor, is_hit)
    is_kept = reason == _KEPT

    tally.add(judged, reason, config.threshold)
    scores = pc.struct_field(pc.list_flatten(table["captions"]), "scores")
    tally.add_filters(scores_by_filter(scores, config), config)
    tally.rows += len(ids)
    tally.healthy += int(pc.sum(pc.equal(table["status"], "ok")).as_py() or 0)
    tally.kept_rows += int((np.bincount(judged.row[is_kept], minlength=len(ids)) > 0).sum())
    tally.contaminated += int(is_hit.sum())
    tally.duplicates += int((~survivor).sum())

    offsets = pa.array(np.concatenate([[0], judged.counts.cumsum()]).astype(np.int32))
    reasons = pa.DictionaryArray.from_arrays(pa.array(reason), pa.array(CODES)).cast(pa.string())
    return pa.Table.from_arrays(
        [
            table["row_id"].combine_chunks(),
            table["uid"].combine_chunks(),
            group,
            pa.array(survivor),
            by,
            pa.ListArray.from_arrays(offsets, pa.array(is_kept)),
            pa.ListArray.from_arrays(offsets, reasons),
        ],
        schema=SELECTION,
    )


def _final_reason(judged: Judged, survivor: npt.NDArray[np.bool_], is_hit: npt.NDArray[np.bool_]) -> npt.NDArray[np.int8]:
    """A text the policy wants is still lost with its row: to an evaluation set first, then to a better duplicate."""
    wanted = judged.reason == _KEPT
    reason = judged.reason.copy()
    reason[wanted & ~survivor[judged.row]] = _DUPLICATE
    reason[wanted & is_hit[judged.row]] = _CONTAMINATED
    return reason
