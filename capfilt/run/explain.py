"""A pair's journey: every row with a uid, from the pool through each round's texts, scores and decisions to its shard.

Reads the files of a run folder; changes nothing and knows no model.
"""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.dedup.records import PAIRS_FILE
from capfilt.errors import InputError
from capfilt.run.files import get_json, lines
from capfilt.schema import POOL_COLUMNS, UPSTREAM
from capfilt.writers.shards import row_key, shard_name

Json = dict[str, Any]
_POOL = tuple(name for name in POOL_COLUMNS if name not in ("image", "captions"))
_TOLD = ("row_id", "status", "error", "captions")  # of the candidates: what a round may have changed


def explain(run_folder: Path, uid: str) -> list[Json]:
    """One entry per row whose uid or row id is `uid`, or whose uid begins so (eight digits stand on a report's cards), by row id.

    An entry holds the row as it is in the pool (without its picture), and `rounds`: per round `status` (`quarantined` where its
    chunk failed as a whole), `error`, `captions` (each with `kept` and `reason` where the round has decided on them), `group`,
    `group_members`, `neighbours`, `survivor`, `contaminated_by`, `judged` (the selection's policy, score and threshold; of
    several filters also how they are combined and each one's own), and `dataset`, where the row lies (`shard`, `key`, `files`),
    None where it was not written.

    Raises:
        InputError: If the run has no such row, or uids of several begin so.
    """
    files = sorted((run_folder / "pool").glob("chunk-*.parquet"))
    found = [(path, row) for path in _likely(files, uid) for row in _rows(path, uid)]
    if not found and re.fullmatch(r"[0-9a-f]{6,31}", uid):
        found = [(path, row) for path in files for row in _rows(path, uid, begins=True)]
        several = sorted({row["uid"] for _, row in found})
        if len(several) > 1:
            raise InputError(f"expected one uid that begins with {uid}, found {', '.join(several[:5])}. Give more of its digits")
    if not found:
        raise InputError(
            f"expected a uid or row id of the run at `{run_folder}`; found `{uid}` in none of its {len(files)} pool files. "
            "Both stand in selection.parquet; uids also in the data set"
        )
    folders = [(int(match[1]), path) for path in run_folder.glob("round-*") if (match := re.fullmatch(r"round-(\d+)", path.name))]
    told = []
    for path, row in found:
        stories = [_story(folder, number, path.name, row["row_id"]) for number, folder in sorted(folders)]
        told.append({**row, "rounds": [story for story in stories if story]})
    return told


def _likely(files: list[Path], uid: str) -> list[Path]:
    """The one chunk a row id belongs to, else all: a uid may be anywhere."""
    chunk = re.fullmatch(r"([0-9a-f]+)-\d{6}", uid)
    named = [path for path in files if chunk and path.name == f"chunk-{chunk[1]}.parquet"]
    return named or files


def _rows(path: Path, uid: str, *, begins: bool = False) -> list[Json]:
    """The rows of a pool file with this uid or row id, or uids that begin so; other columns are read only where there are any."""
    with pq.ParquetFile(path) as file:
        ids = file.read(columns=["row_id", "uid"])
        is_it = pc.or_(pc.equal(ids["uid"], uid), pc.equal(ids["row_id"], uid))
        if begins:
            is_it = pc.starts_with(ids["uid"], uid)
        if not pc.any(is_it).as_py():
            return []
        names = [name for name in (*_POOL, UPSTREAM) if name in file.schema_arrow.names]
        rows: list[Json] = file.read(columns=names).filter(is_it).to_pylist()
    return rows


def _story(folder: Path, number: int, chunk_file: str, row_id: str) -> Json | None:
    candidates = folder / "candidates" / chunk_file
    row = _one(candidates, row_id, _TOLD) if candidates.is_file() else None
    if row is None:
        return _set_aside(folder, number, chunk_file)
    story: Json = {"round": number, "status": row["status"], "error": row["error"], "captions": row["captions"] or []}
    selection = folder / "selection" / "selection.parquet"
    decided = _one(selection, row_id) if selection.is_file() else None
    if decided is None or len(decided["kept"]) != len(story["captions"]):
        return story  # or made anew since the round decided, as after a retry
    for caption, kept, reason in zip(story["captions"], decided["kept"], decided["reason"], strict=True):
        caption["kept"], caption["reason"] = kept, reason
    story |= {name: decided[name] for name in ("group", "survivor", "contaminated_by")}
    story["group_members"] = _column(selection, pc.field("group") == decided["group"], "row_id")
    story["neighbours"] = _neighbours(folder / "dedup" / PAIRS_FILE, row_id)
    summary = get_json(str(folder / "selection" / "summary.json")) or {}
    story["judged"] = {name: summary[name] for name in ("policy", "score", "threshold", "combine") if name in summary}
    if "filters" in summary:
        each = {name: {key: own.get(key) for key in ("score", "threshold")} for name, own in summary["filters"].items()}
        story["judged"]["filters"] = each
    story["dataset"] = _place(folder / "dataset", selection, row_id) if any(decided["kept"]) else None
    return story


def _set_aside(folder: Path, number: int, chunk_file: str) -> Json | None:
    """A row whose chunk failed as a whole in this round; None where the round has not come to it."""
    chunk_id = chunk_file.removeprefix("chunk-").removesuffix(".parquet")
    mark = get_json(str(folder.parent / "steps" / f"{folder.name}-candidates.json")) or {}
    if chunk_id not in mark.get("left_out", ()):
        return None
    known = [line for line in lines(str(folder.parent), "quarantine") if line.get("chunk_id") == chunk_id]
    told = known[-1] if known else {}
    where = f" at {told['at']}" if told.get("at") else ""
    return {"round": number, "status": "quarantined", "error": f"{told.get('error', 'unknown')}{where}", "captions": []}


def _one(path: Path, row_id: str, columns: tuple[str, ...] | None = None) -> Json | None:
    table = pq.read_table(path, columns=None if columns is None else list(columns), filters=pc.field("row_id") == row_id)
    row: Json | None = table.to_pylist()[0] if table.num_rows else None
    return row


def _column(path: Path, rows: pc.Expression, name: str) -> list[Any]:
    values: list[Any] = pq.read_table(path, columns=[name], filters=rows)[name].to_pylist()
    return values


def _neighbours(path: Path, row_id: str) -> list[Json]:
    """Recorded pairs of the row, closest first; also those below the threshold the run selected with."""
    if not path.is_file():
        return []
    table = pq.read_table(path, filters=(pc.field("a") == row_id) | (pc.field("b") == row_id))
    pairs = [
        {"row_id": pair["b"] if pair["a"] == row_id else pair["a"], "cosine": round(pair["cosine"], 6), "kind": pair["kind"]}
        for pair in table.to_pylist()
    ]
    return sorted(pairs, key=lambda pair: (-pair["cosine"], pair["row_id"]))


def _place(dataset: Path, selection: Path, row_id: str) -> Json | None:
    """Where a kept row lies. Data set rows follow the selection's kept rows, so its number among them is its place."""
    manifest = dataset / "manifest.json"
    if not manifest.is_file():
        return None
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    per_shard = int(facts["rows_per_shard"])
    number = 0
    with pq.ParquetFile(selection) as file:
        for batch in file.iter_batches(columns=["row_id", "kept"]):
            before = pc.less(batch.column("row_id"), row_id)
            number += _rows_with_text(batch.column("kept").filter(before))
            if not pc.all(before).as_py():
                break
    shard = shard_name(number // per_shard)
    files = [file["path"] for file in facts["files"] if Path(file["path"]).stem == shard]
    return {"shard": shard, "key": row_key(number, per_shard), "files": files}


def _rows_with_text(kept: pa.Array) -> int:
    parents = pc.list_parent_indices(kept).filter(kept.flatten())
    return int(pc.count_distinct(parents).as_py())
