"""Every file of a run against what was recorded of it: chunks against their footers, steps and shards against their sha256.

Reads all bytes once, one file in memory at a time; changes nothing and knows no model.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt import schema
from capfilt.errors import OutputError
from capfilt.identity import row_id
from capfilt.run import files
from capfilt.run.build import Job
from capfilt.run.commit import Footer, read_footer, seal_holds
from capfilt.run.quarantine import mark_path
from capfilt.run.scratch import tree
from capfilt.run.steps import file_sha256

_LEFT_OVER = re.compile(r".*\.(torn|part|tmp|old)|\..+")
_NOT_OURS = re.compile(r"round-\d+/(training|views)/.*")  # state of a training; what the user decided again


@dataclass(frozen=True)
class Difference:
    """One file that is not what it should be. `path` is relative to the run folder."""

    path: str
    expected: str
    found: str
    advice: str


@dataclass
class Seen:
    """What was read so far. `known` are paths that something accounts for, relative to the run folder."""

    output: str
    command: str  # `capfilt run …`
    files: int = 0
    known: set[str] = field(default_factory=set)
    unsealed: set[str] = field(default_factory=set)  # folders of which no sha256 was kept
    notes: list[str] = field(default_factory=list)

    def path(self, name: str) -> str:
        return files.join(self.output, name)


# ── chunks ──────────────────────────────────────────────────────────────────────────────────────────────────


def check_chunks(
    seen: Seen, job: Job, rows: Mapping[str, int], made_from: Mapping[str, str] | None = None
) -> Iterator[Difference | Footer]:
    """The chunk files of one job: a Footer for each that is as it should be, a Difference for each that is not.

    Args:
        rows: By chunk id, for every chunk of the plan.
        made_from: Of candidates, the sha256 of the pool's chunks.
    """
    mark = files.get_json(mark_path(job))
    mark = mark if isinstance(mark, dict) else {}
    is_closed = bool(mark) and mark.get("state", "closed") == "closed"
    expected = mark.get("fingerprint", job.fingerprint)
    redo = f"{seen.command} --from {'read' if job.kind == 'pool' else f'round-{job.round_number}/caption'}"
    stale = 0
    for name in rows:
        path = f"{job.name}/chunk-{name}.parquet"
        seen.known.add(path)
        if not files.exists(seen.path(path)):
            if is_closed and name not in mark.get("left_out", ()):
                yield Difference(path, f"a chunk of {rows[name]} rows", "no file", f"{seen.command} (makes it anew)")
            continue
        seen.files += 1
        told = _check_chunk(seen, job, path, name, rows[name], expected, redo)
        yield told
        if isinstance(told, Footer) and made_from is not None and told.made_from != made_from.get(name, told.made_from):
            stale += 1
    if stale:
        seen.notes.append(f"{job.name}: {stale} chunk(s) are older than the pool they come from: {seen.command} makes them anew")
    if not is_closed:
        seen.notes.append(f"{job.name}: not finished, so a chunk that is not there is not missed")


def _check_chunk(seen: Seen, job: Job, path: str, name: str, rows: int, fingerprint: str, redo: str) -> Difference | Footer:
    again = f"delete it, then {seen.command}"
    try:
        footer = read_footer(seen.path(path))
    except OutputError as problem:
        return Difference(path, "a chunk file that can be read", str(problem), again)
    if footer is None:
        return Difference(path, "a whole chunk file", "a torn or a foreign one", f"{seen.command} (sets it aside, makes it anew)")
    data = files.get(seen.path(path)) or b""
    if footer.sha256 and not seal_holds(data, footer.sha256):
        return Difference(path, f"sha256 {footer.sha256[:12]}…", "other bytes", again)
    if not footer.sha256:
        seen.notes.append(f"{path}: no sha256 in it (made by an older version)")
    if footer.chunk_id != name:
        return Difference(path, f"chunk {name}", f"chunk {footer.chunk_id}", again)
    if footer.fingerprint != fingerprint:
        return Difference(path, f"fingerprint {fingerprint}", footer.fingerprint, redo)
    if footer.rows != rows:
        return Difference(path, f"{rows} rows", f"{footer.rows}", again)
    try:
        found = pq.ParquetFile(pa.BufferReader(data))
        wanted = _schema_of(job, found.schema_arrow)
        table = found.read(columns=["row_id", "status"])
    except (OSError, pa.ArrowException) as problem:
        return Difference(path, "readable columns", str(problem).splitlines()[0], again)
    if not found.schema_arrow.remove_metadata().equals(wanted):
        return Difference(path, "the columns of docs/schema.md", ", ".join(found.schema_arrow.names), redo)
    counts = dict(Counter(table["status"].to_pylist()))
    if counts != footer.counts:
        return Difference(path, f"rows by status {footer.counts}", f"{counts}", again)
    if table["row_id"].to_pylist() != [row_id(name, row) for row in range(rows)]:
        return Difference(path, f"row ids {row_id(name, 0)} …", "others, or another order", again)
    return footer


def _schema_of(job: Job, found: pa.Schema) -> pa.Schema:
    """What capfilt/schema.py promises, with the width of the embedding and the carried columns that are there."""
    upstream = found.field(schema.UPSTREAM).type if schema.UPSTREAM in found.names else None
    if job.kind == "pool":
        return schema.pool_schema(upstream)
    if job.pipeline.filter is None:
        full = schema.candidates_schema(1, upstream)
        return full.remove(full.get_field_index(schema.EMBEDDING))
    has_width = schema.EMBEDDING in found.names and pa.types.is_fixed_size_list(found.field(schema.EMBEDDING).type)
    return schema.candidates_schema(found.field(schema.EMBEDDING).type.list_size if has_width else 1, upstream)


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────


def check_steps(seen: Seen) -> Iterator[Difference]:
    """What each finished step left, against the sha256 kept when it was done."""
    for path in files.listing(seen.path("steps"), "round-", ".json"):
        name = path.rpartition("/")[2].removesuffix(".json")
        number, _, stage = name.removeprefix("round-").partition("-")
        label = f"round-{number}/{stage}"
        mark = files.get_json(path)
        if not isinstance(mark, dict):
            yield Difference(
                f"steps/{name}.json", "what was done", "a file that cannot be read", f"delete it, then {seen.command}"
            )
            continue
        if "key" not in mark:
            continue  # of chunks
        if mark.get("state") != "done" or "sha256" not in mark:
            seen.unsealed.update(_folders(label))
            what = "not finished" if mark.get("state") != "done" else "done by an older version, which kept no sha256"
            seen.notes.append(f"{label}: {what}")
            continue
        for file, sha256 in mark["sha256"].items():
            seen.known.add(file)
            yield from _compare(seen, file, sha256, f"{seen.command} --from {label}")


def _folders(label: str) -> list[str]:
    folder, _, stage = label.partition("/")
    makes = {
        "select": ["selection"],
        "write": ["dataset"],
        "pretrain": ["models"],
        "finetune": ["models/captioner", "models/filter"],
        "evaluate": ["metrics.json"],
    }
    return [f"{folder}/{name}" for name in makes.get(stage, [stage])]


def _compare(seen: Seen, path: str, sha256: str, advice: str) -> Iterator[Difference]:
    found = file_sha256(seen.path(path))
    if found is None:
        yield Difference(path, f"sha256 {sha256[:12]}…", "no file", advice)
        return
    seen.files += 1
    if found != sha256:
        yield Difference(path, f"sha256 {sha256[:12]}…", f"sha256 {found[:12]}…", advice)


# ── data sets ───────────────────────────────────────────────────────────────────────────────────────────────


def check_dataset(seen: Seen, folder: str, advice: str) -> Iterator[Difference]:
    """A data set's shards against its manifest. `folder` is relative to the run folder."""
    name = f"{folder}/manifest.json"
    if not files.exists(seen.path(name)):
        return
    manifest: Any = files.get_json(seen.path(name))
    seen.known.add(name)
    try:
        listed = [(f"{folder}/{file['path']}", file["sha256"], file["rows"]) for file in manifest["files"]]
        rows, formats = int(manifest["rows"]), len(manifest["formats"])
    except (TypeError, KeyError, ValueError):
        yield Difference(name, "a manifest", "one that cannot be read", advice)
        return
    for path, sha256, count in listed:
        seen.known.add(path)
        differs = list(_compare(seen, path, sha256, advice))
        yield from differs
        if not differs and path.endswith(".parquet") and (held := _rows_of(seen.path(path))) != count:
            yield Difference(path, f"{count} rows", f"{held}", advice)
    told = sum(count for path, _, count in listed if not path.endswith(".tar"))
    if listed and told != rows * formats:
        yield Difference(name, f"{rows} rows in {formats} format(s)", f"{told} in its shards", advice)


def _rows_of(path: str) -> int:
    with files.open_file(path) as file:
        return int(pq.read_metadata(file).num_rows)


# ── what nobody accounts for ────────────────────────────────────────────────────────────────────────────────


def check_strangers(seen: Seen) -> Iterator[Difference]:
    """Files in the folders of the run's stages that no stage made."""
    begin = len(seen.output.rstrip("/")) + 1
    for path in (address[begin:] for address in tree(seen.output)):
        if not re.match(r"pool/|round-\d+/", path) or path in seen.known or _NOT_OURS.fullmatch(path):
            continue
        if any(path == made or path.startswith(f"{made}/") for made in seen.unsealed):
            continue
        if any(_LEFT_OVER.fullmatch(part) for part in path.split("/")):
            seen.notes.append(f"{path}: left by a start that was killed; the next one clears it, or delete it")
            continue
        yield Difference(path, "no such file", "a file that no stage made", "move it out of the run folder, or delete it")
