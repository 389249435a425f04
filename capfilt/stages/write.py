"""Write: a selection and the pool's bytes -> shards, manifest and data card, in a folder that appears whole.

Everything in it follows from selection, candidates and pool; whether a text is kept was decided before.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.config.round import WriteConfig
from capfilt.config.select import SelectConfig
from capfilt.errors import ContractError, InputError
from capfilt.schema import DATASET, SCHEMA_VERSION, UPSTREAM
from capfilt.sources.carried import united
from capfilt.stages.chunks import in_row_order, local_folder, open_parquet, read_chunks
from capfilt.stages.combine import SCORE_NAMES, combined_scores, judged_scores
from capfilt.stages.policy import best_per_row
from capfilt.writers.card import data_card
from capfilt.writers.parquet import ParquetShards
from capfilt.writers.shards import ShardFormat, row_key, write_shards
from capfilt.writers.webdataset import WebDatasetShards
from capfilt.writers.whole import whole_folder, write_json

_TEXT_COLUMNS = ("url", "width", "height", "original_width", "original_height", "sha256", "text", "captions", UPSTREAM)
_PICTURES_AT_ONCE = 512


def write(
    config: WriteConfig,
    *,
    policy: SelectConfig,
    selection: str,
    candidates: Sequence[str],
    pool: Sequence[str],
    out: str,
    card: dict[str, Any],
) -> dict[str, Any]:
    """Write the kept rows, by row id, into the folder `out`; give back the manifest. With no kept row there is no shard.

    Args:
        policy: What made the selection; by its score the best text of a row is told.
        selection: The selection.parquet of these candidates.
        pool: Chunk files of the same names, with pictures.
        card: Told to `data_card`; its `fingerprint` also goes into the manifest.

    Raises:
        ContractError: If selection and candidates do not have the same rows, or a kept row has no picture.
        InputError: If the carried columns of two chunks do not go together.
    """
    footers = [_footer(path) for path in in_row_order(candidates)]
    schema = _dataset_schema(footers)
    counted = {"rows": 0, "texts": 0}
    with whole_folder(local_folder(out)) as folder:
        formats = [_format(name, folder, schema) for name in dict.fromkeys(config.formats)]
        tables = _kept_tables(policy, selection, footers, pool, schema, config.rows_per_shard, counted)
        files = write_shards(tables, formats, folder, config.rows_per_shard)
        shards = -(-counted["rows"] // config.rows_per_shard)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": card.get("fingerprint"),
            **counted,
            "shards": shards,
            "rows_per_shard": config.rows_per_shard,
            "formats": [form.name for form in formats],
            "columns": {field.name: str(field.type) for field in schema},
            "files": [asdict(file) for file in files],
        }
        write_json(folder / "manifest.json", manifest)
        text = data_card(card, _summary(selection), schema, **counted, formats=config.formats, shards=shards)
        (folder / "README.md").write_text(text, encoding="utf-8")
    return manifest


def _format(name: str, folder: Path, schema: pa.Schema) -> ShardFormat:
    match name:
        case "parquet":
            return ParquetShards(folder / name, schema)
        case "webdataset":
            return WebDatasetShards(folder / name, schema)
        case _:
            raise ContractError(f"expected parquet or webdataset; found `{name}`, which has a config but no writer")


@dataclass(frozen=True)
class _Footer:
    """Of a chunk file: how many rows it has, and the type of what it carries."""

    path: str
    rows: int
    upstream: pa.StructType | None


def _footer(path: str) -> _Footer:
    with open_parquet(path) as file:
        schema = file.schema_arrow
        return _Footer(path, file.metadata.num_rows, schema.field(UPSTREAM).type if UPSTREAM in schema.names else None)


def _dataset_schema(footers: Sequence[_Footer]) -> pa.Schema:
    """schema.DATASET, with `upstream` where the candidates carry it; input files may differ in its types."""
    carried = [(footer.path, footer.upstream) for footer in footers if footer.upstream is not None]
    return DATASET.append(pa.field(UPSTREAM, united(carried))) if carried else DATASET


def _typed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Of this schema; a whole number too large for a fraction's digits is rounded."""
    if UPSTREAM in schema.names:
        options = pc.CastOptions(schema.field(UPSTREAM).type, allow_float_truncate=True)
        at = table.schema.get_field_index(UPSTREAM)
        table = table.set_column(at, UPSTREAM, pc.cast(table[UPSTREAM], options=options))
    return table.select(schema.names).cast(schema)


def _kept_tables(
    policy: SelectConfig,
    selection: str,
    footers: Sequence[_Footer],
    pool: Sequence[str],
    schema: pa.Schema,
    rows_per_shard: int,
    counted: dict[str, int],
) -> Iterator[pa.Table]:
    """Tables of the data set, a few hundred rows each; adds to `counted` what went by."""
    pool_of = {PurePath(path).name: path for path in pool}
    decided = _Selection(selection)
    # The chunks that have rows: `read_chunks` passes the empty ones over.
    filled = [footer.path for footer in footers if footer.rows]
    for path, table in zip(filled, read_chunks(filled, ["uid", *_TEXT_COLUMNS]), strict=True):
        kept = decided.take(table["row_id"])
        columns, is_kept = _columns(table, kept, policy)
        if not is_kept.any():
            continue
        name = PurePath(path).name
        if name not in pool_of:
            raise InputError(
                f"expected the pictures of `{name}` in the pool; found none. Run the pipeline again: it makes missing chunks"
            )
        for part in _with_pictures(columns, pool_of[name]):
            keys = [row_key(counted["rows"] + i, rows_per_shard) for i in range(part.num_rows)]
            counted["rows"] += part.num_rows
            counted["texts"] += int(pc.sum(pc.list_value_length(part["all_captions"])).as_py())
            yield _typed(part.append_column("key", pa.array(keys, pa.string())), schema)
    decided.check_used_up()


def _columns(table: pa.Table, kept: pa.Array, policy: SelectConfig) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """The kept rows with the data set's text columns and `row_id`, without pictures; and which rows are kept."""
    captions = table["captions"].combine_chunks()
    counts = pc.fill_null(pc.list_value_length(captions), 0).to_numpy(zero_copy_only=False)
    if not np.array_equal(counts, pc.list_value_length(kept).to_numpy(zero_copy_only=False)):
        raise ContractError("a selection's `kept` must be parallel to `captions`; it is not. It belongs to other candidates")
    is_kept = kept.flatten().to_numpy(zero_copy_only=False).astype(np.bool_)
    row = np.repeat(np.arange(len(counts)), counts)[is_kept]
    texts = captions.flatten().filter(pa.array(is_kept))
    per_row = np.bincount(row, minlength=table.num_rows)
    rows_kept = per_row > 0
    found = pc.struct_field(texts, "scores")
    scores = {name: combined_scores(found, name, policy.combine) for name in SCORE_NAMES}
    best = pa.array(best_per_row(row, np.nan_to_num(judged_scores(found, policy), nan=-1), table.num_rows))
    offsets = pa.array(np.concatenate([[0], per_row[rows_kept].cumsum()]).astype(np.int32))

    out = table.filter(pa.array(rows_kept)).drop_columns(["captions"])
    words, origins = pc.struct_field(texts, "text"), pc.struct_field(texts, "origin")
    added = {
        "caption": words.filter(best),
        "origin": origins.filter(best),
        "all_captions": pa.ListArray.from_arrays(offsets, words),
        "all_origins": pa.ListArray.from_arrays(offsets, origins),
        "all_itm": pa.ListArray.from_arrays(offsets, pa.array(scores["itm"], from_pandas=True)),
        "all_itc": pa.ListArray.from_arrays(offsets, pa.array(scores["itc"], from_pandas=True)),
    }
    for name, values in added.items():
        out = out.append_column(name, values)
    return out, rows_kept


def _with_pictures(columns: pa.Table, pool_file: str) -> Iterator[pa.Table]:
    """`columns` with `image`, in pieces: a chunk's pictures are never in memory together."""
    start = 0
    with open_parquet(pool_file) as file:
        for batch in file.iter_batches(batch_size=_PICTURES_AT_ONCE, columns=["row_id", "image"]):
            wanted = pc.is_in(batch.column("row_id"), value_set=columns["row_id"].combine_chunks())
            found = batch.filter(wanted)
            part = columns.slice(start, found.num_rows)
            image = found.column("image")
            if image.null_count or not part["row_id"].combine_chunks().equals(found.column("row_id")):
                raise ContractError(f"a kept row must have its picture in the pool, in the same order; `{pool_file}` breaks that")
            start += found.num_rows
            if found.num_rows:
                yield part.append_column("image", image)
    if start != columns.num_rows:
        raise ContractError(
            f"every kept row must be in the pool; `{pool_file}` lacks {columns.num_rows - start} of {columns.num_rows}"
        )


class _Selection:
    """A selection read along with the candidates, a slice at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._batches = pq.ParquetFile(path).iter_batches(columns=["row_id", "kept"])
        self._left: pa.Table = pa.table({"row_id": pa.array([], pa.string()), "kept": pa.array([], pa.list_(pa.bool_()))})

    def take(self, row_ids: pa.ChunkedArray) -> pa.Array:
        """`kept` of the next rows, which must be these."""
        while self._left.num_rows < len(row_ids):
            batch = next(self._batches, None)
            if batch is None:
                break
            self._left = pa.concat_tables([self._left, pa.Table.from_batches([batch]).cast(self._left.schema)])
        head, self._left = self._left.slice(0, len(row_ids)), self._left.slice(len(row_ids))
        if not head["row_id"].combine_chunks().equals(row_ids.combine_chunks()):
            raise ContractError(f"a selection must have the rows of its candidates; `{self._path}` belongs to others")
        return head["kept"].combine_chunks()

    def check_used_up(self) -> None:
        if self._left.num_rows or next(self._batches, None) is not None:
            raise ContractError(f"a selection must have the rows of its candidates; `{self._path}` has more")


def _summary(selection: str) -> dict[str, Any]:
    """summary.json beside the selection; empty if it is not there."""
    path = Path(selection).with_name("summary.json")
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return summary
