"""THE CONTRACT: every column capfilt writes, its Arrow type, who writes it and what it means.

Names follow DataComp and img2dataset. Knows nothing about how a value is computed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 1

Status = Literal[
    "ok",
    "download_failed",
    "download_blocked",  # by a list of ours
    "opted_out",  # by the host's word
    "image_invalid",
    "rule_rejected",
    "caption_failed",
    "filter_failed",
]
Origin = Literal["web", "synthetic", "human"]

SCORE = pa.struct([("filter", pa.string()), ("itm", pa.float32()), ("itc", pa.float32())])

CAPTION = pa.struct(
    [
        ("text", pa.string()),
        ("origin", pa.string()),
        ("captioner", pa.string()),
        ("k", pa.int32()),
        ("log_prob", pa.float32()),
        ("rule", pa.string()),
        ("error", pa.string()),
        ("scores", pa.list_(SCORE)),
    ]
)
"""One candidate text. `captioner` and `k` (its n-th text) are null for web texts; `rule` names the screen rule that rejected the
text; `error` says why a score or text is missing; `scores` has one entry per filter, probability `itm` and cosine `itc`."""


@dataclass(frozen=True)
class Column:
    """One column of the contract. `by` are the stages that may write it."""

    name: str
    type: pa.DataType
    by: tuple[str, ...]
    meaning: str


COLUMNS: tuple[Column, ...] = (
    Column("row_id", pa.string(), ("read",), "chunk id + row number: unique in a run; sorts rows and breaks ties"),
    Column(
        "uid", pa.string(), ("read",), "32 hex digits: the input's own where mapped, else a hash of address and text; may repeat"
    ),
    Column("url", pa.string(), ("read",), "address of the picture; may be null where the input holds bytes"),
    Column("text", pa.string(), ("read", "screen"), "web text as found, personal data masked by rule `pii`; null for none"),
    Column(
        "status",
        pa.string(),
        ("read", "download", "screen", "caption", "filter"),
        "ok, or why the row takes no further part",
    ),
    Column(
        "error",
        pa.string(),
        ("read", "download", "screen", "caption", "filter"),
        "closed code and normalised detail, null when ok",
    ),
    Column("image", pa.large_binary(), ("read", "download"), "ENCODED bytes (JPEG); in the pool only"),
    Column("width", pa.int32(), ("download",), "pixels of `image`"),
    Column("height", pa.int32(), ("download",), "pixels of `image`"),
    Column("original_width", pa.int32(), ("download",), "pixels as served"),
    Column("original_height", pa.int32(), ("download",), "pixels as served"),
    Column("sha256", pa.string(), ("download",), "hash of the bytes as served"),
    Column("consent", pa.string(), ("download",), "host's word: none_stated, robots_txt:…, tdm_reservation, x_robots_tag:…"),
    Column("captions", pa.list_(CAPTION), ("screen", "caption", "filter"), "every candidate text"),
)
UPSTREAM = "upstream"
"""Struct of carried input columns, written by `read`; absent when `keep_columns` is empty (Parquet has no empty struct)."""

EMBEDDING = "embedding"
"""fixed_size_list<float16> of unit norm, written by `filter`: the image's feature under the first filter; null if none."""


def _fields(names: Iterable[str]) -> list[pa.Field]:
    types = {column.name: column.type for column in COLUMNS}
    return [pa.field(name, types[name]) for name in names]


READ_COLUMNS = ("row_id", "uid", "url", "text", "status", "error", "image")
POOL_COLUMNS = tuple(column.name for column in COLUMNS)
CANDIDATE_COLUMNS = tuple(name for name in POOL_COLUMNS if name != "image")


def pool_schema(upstream: pa.StructType | None = None) -> pa.Schema:
    """Schema of `pool/chunk-*.parquet`; `upstream` is the type of the carried columns, None for none."""
    fields = _fields(POOL_COLUMNS)
    return pa.schema(fields if upstream is None else [*fields, pa.field(UPSTREAM, upstream)])


def embedding_type(dim: int) -> pa.DataType:
    return pa.list_(pa.float16(), dim)


def candidates_schema(dim: int, upstream: pa.StructType | None = None) -> pa.Schema:
    """Schema of `round-N/candidates/chunk-*.parquet`: the pool without image bytes, with the `dim`-wide embedding."""
    fields = _fields(CANDIDATE_COLUMNS)
    if upstream is not None:
        fields.append(pa.field(UPSTREAM, upstream))
    return pa.schema([*fields, pa.field(EMBEDDING, embedding_type(dim))])


REASONS: dict[str, str] = {
    "kept": "passes the policy and its row survives",
    "row_not_ok": "its row has a status other than ok",
    "rule": "rejected by a screen rule (named in captions[].rule)",
    "error": "the text or its score could not be made (captions[].error)",
    "below_threshold": "its score is below the policy's threshold",
    "not_chosen": "passes, but the policy prefers another text of the row",
    "duplicate": "passes, but another row of its duplicate group survives",
    "contaminated": "its picture is in an evaluation set",
}
"""Closed codes of `reason` in a selection."""

SELECTION = pa.schema(
    [
        ("row_id", pa.string()),
        ("uid", pa.string()),
        ("group", pa.string()),  # row_id of the duplicate group's smallest member; the row's own when alone
        ("survivor", pa.bool_()),  # the one row of its group that may be written
        ("contaminated_by", pa.string()),  # `file#key` of the evaluation picture it duplicates, else null
        ("kept", pa.list_(pa.bool_())),  # parallel to `captions`
        ("reason", pa.list_(pa.string())),  # parallel to `captions`, a code of REASONS
    ]
)

DATASET = pa.schema(
    [
        ("uid", pa.string()),
        ("key", pa.string()),  # shard number + row number, nine digits, as in img2dataset
        ("url", pa.string()),
        ("image", pa.large_binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),
        ("text", pa.string()),  # the web text as found, kept or not
        ("caption", pa.string()),  # the chosen text: the kept one with the best score
        ("origin", pa.string()),  # of `caption`
        ("all_captions", pa.list_(pa.string())),  # every kept text
        ("all_origins", pa.list_(pa.string())),
        ("all_itm", pa.list_(pa.float32())),
        ("all_itc", pa.list_(pa.float32())),
    ]
)
"""One row of a written data set. `upstream` is appended where columns were carried."""

PAIRS = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("captions", pa.list_(pa.string())),
    ]
)
"""Human pairs, as `pretrain.human`, `finetune.human` and `evaluate.heldout` read them: one image, all its texts. A text alone
stands for a list of one."""


def misfit_of_pairs(found: pa.Schema, columns: Sequence[str]) -> str | None:
    """Which of `columns`, as far as they are there, holds neither pictures nor texts as it should, and what; None for none."""
    for name in (name for name in columns if name in found.names):
        kind = found.field(name).type
        if name == "image" and not (_is_binary(kind) or pa.types.is_null(kind)):
            inner = "; take its field `bytes`" if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else ""
            return f"expected encoded pictures (binary) in column image, found {kind}{inner}"
        if name in ("captions", "all_captions") and not (_is_text(kind) or (_is_list(kind) and _is_text(kind.value_type))):
            return f"expected a text or a list of texts in each row of column {name}, found {kind}"
    return None


def texts_of(told: str | Sequence[str | None] | None) -> list[str]:
    """The texts of a row of pairs, which holds one or a list of them, without blank ones."""
    return [text for text in ([told] if isinstance(told, str) else told or ()) if text and text.strip()]


def _is_binary(kind: pa.DataType) -> bool:
    of_any_size = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(of_any_size or pa.types.is_fixed_size_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    """Null, too: a column without any text."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    types = pa.types
    return bool(types.is_string(inner) or types.is_large_string(inner) or types.is_string_view(inner) or types.is_null(inner))


def empty_captions() -> pa.Array:
    return pa.array([], type=pa.list_(CAPTION))
