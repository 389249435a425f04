"""Whether a task can be done, said before any work: does the network's family do it, in this way, and is the data there?

Knows networks by their class and files by their columns; nothing of how a task is done.
"""

from typing import Any, Literal, assert_never

import pyarrow as pa

from capfilt.config.architectures.parts import Role
from capfilt.config.downstream import (
    AnyTask,
    CaptioningTask,
    EntailmentTask,
    FittedTask,
    FrozenClassifierTask,
    RetrievalTask,
    TwoImagesTask,
    VideoClassificationTask,
    VideoRetrievalTask,
    VqaTask,
    ZeroShotTask,
)
from capfilt.errors import ConfigError, InputError
from capfilt.modeling.blip2.network import Blip2
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.families import Loaded
from capfilt.modeling.med.network import MED
from capfilt.modeling.soho.network import SOHO
from capfilt.sources.tables import open_table

FAMILY_NAMES: dict[type, str] = {
    MED: "MED",
    CoCa: "CoCa",
    SOHO: "SOHO",
    QFormer: "BLIP-2 of stage 1",
    Blip2: "BLIP-2 of stage 2",
    ClipCap: "ClipCap",
}
ABLE: dict[str, tuple[type, ...]] = {
    "retrieval": (MED, CoCa, SOHO, QFormer),
    "captioning": (MED, CoCa, QFormer, Blip2, ClipCap),
    "vqa": (MED, CoCa, SOHO),
    "entailment": (MED, CoCa, SOHO),
    "two_images": (MED, CoCa, SOHO),
    "zero_shot": (MED, CoCa, QFormer),
    "frozen_classifier": (MED, CoCa, SOHO),
    "video_retrieval": (MED, CoCa),
    "video_classification": (MED, CoCa, SOHO),
}
"""Families by a task's `kind`."""
Wanted = Literal["encoded pictures (binary)", "lists of encoded pictures (binary)", "lists of texts", "lists of numbers", "any"]


def check(task: AnyTask, loaded: Loaded) -> None:
    """All that can be known of one task before it is begun.

    Raises:
        ConfigError: If the network cannot do it, or not in the way asked for.
        InputError: If a file is missing, has no rows, or lacks a column or has it of another type.
    """
    check_family(task, loaded)
    columns = columns_of(task)
    for path in dict.fromkeys([task.train, task.data] if isinstance(task, FittedTask) else [task.data]):
        _check_columns(path, columns)


def check_family(task: AnyTask, loaded: Loaded) -> None:
    """Raises: ConfigError: If the network cannot do the task, or not in the way asked for."""
    model: Any = loaded.model
    able = ABLE[task.kind]
    found = FAMILY_NAMES.get(type(model), type(model).__name__)
    if not isinstance(model, able):
        names = [FAMILY_NAMES[family] for family in able]
        expected = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
        raise ConfigError(f"{task.label}: expected a {expected}, found a {found}. Name another model, or leave the task out")
    lacking = [role for role in _roles_for(task, model) if role not in loaded.architecture.roles]
    if lacking:
        does = {"captioner": "writes (a captioner)", "filter": "reads texts with pictures (a filter)"}[lacking[0]]
        raise ConfigError(
            f"{task.label}: expected a {found} that {does}, found one whose weights cannot. Name another checkpoint, or leave "
            "the task out"
        )
    match task:
        case RetrievalTask() if isinstance(model, CoCa) and task.rerank_top_k:
            raise _wrong(task, "rerank_top_k", f"0 for a {found}, which has no ITM", task.rerank_top_k, "Leave it out")
        case CaptioningTask() if task.embedding is not None and not isinstance(model, ClipCap):
            raise _wrong(task, "embedding", f"none for a {found}, which takes pictures", task.embedding, "Leave it out")
        case CaptioningTask() if task.embedding is None and loaded.architecture.image is None:
            raise _wrong(
                task, "embedding", "a column of stored embeddings for a ClipCap without an image side", "none", "Name the column"
            )
        case VqaTask() if task.by not in (None, "classify") and not isinstance(model, MED):
            expected = f"classify for a {found}, which has no answer decoder"
            raise _wrong(task, "by", expected, task.by, "Write by: classify, or name a MED")
        case VqaTask() if task.lm_weight is not None and not isinstance(model, CoCa):
            raise _wrong(task, "lm_weight", "it for a CoCa alone", f"{task.lm_weight:g} for a {found}", "Leave it out")
        case TwoImagesTask() if task.by == "merge" and not isinstance(model, MED):
            expected = f"apart for a {found}, whose layers look at one picture"
            raise _wrong(task, "by", expected, task.by, "Write by: apart, or name a MED")
        case _:
            pass


def _wrong(task: AnyTask, key: str, expected: str, found: Any, advice: str) -> ConfigError:
    return ConfigError(f"{task.label}.{key}: expected {expected}, found {found}. {advice}")


def _roles_for(task: AnyTask, model: Any) -> tuple[Role, ...]:
    match task:
        case RetrievalTask() | ZeroShotTask() | VideoRetrievalTask() | EntailmentTask() | TwoImagesTask():
            return ("filter",)
        case VqaTask():
            return ("filter",) if task.by == "classify" or not isinstance(model, MED) else ("filter", "captioner")
        case CaptioningTask():
            return () if isinstance(model, Blip2) else ("captioner",)  # whose Q-Former may have no role of its own
        case FrozenClassifierTask() | VideoClassificationTask():
            return ()
        case _:
            assert_never(task)


def columns_of(task: AnyTask) -> dict[str, Wanted]:
    """The columns of a task's files, and what is in them."""
    match task:
        case CaptioningTask() if task.embedding is not None:
            return {task.embedding: "lists of numbers", "captions": "lists of texts"}
        case RetrievalTask() | CaptioningTask():
            return {"image": "encoded pictures (binary)", "captions": "lists of texts"}
        case VqaTask():
            return {"image": "encoded pictures (binary)", "question": "any", "answer": "any"}
        case EntailmentTask():
            return {"image": "encoded pictures (binary)", "text": "any", "label": "any"}
        case TwoImagesTask():
            both: dict[str, Wanted] = dict.fromkeys(("image", "image_2"), "encoded pictures (binary)")
            return {**both, "text": "any", "label": "any"}
        case ZeroShotTask():
            return {"image": "encoded pictures (binary)", task.column: "any"}
        case FrozenClassifierTask():
            labels: dict[str, Wanted] = dict.fromkeys(task.columns, "any")
            return {"image": "encoded pictures (binary)", **labels}
        case VideoRetrievalTask():
            return {"frames": "lists of encoded pictures (binary)", "captions": "lists of texts"}
        case VideoClassificationTask():
            return {"frames": "lists of encoded pictures (binary)", task.column: "any"}
        case _:
            assert_never(task)


def _check_columns(path: str, columns: dict[str, Wanted]) -> None:
    table = open_table(path, tuple(columns))
    if table.metadata.num_rows == 0:
        raise InputError(f"{path}: expected rows with {', '.join(columns)}, found none; name another file")
    for name, wanted in columns.items():
        found = table.schema_arrow.field(name).type
        if not _is(found, wanted):
            raise InputError(f"{path}: expected {wanted} in column {name}, found {found}; write it so, or name another file")


def _is(found: pa.DataType, wanted: Wanted) -> bool:
    is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
    inner = found.value_type if is_list else None
    match wanted:
        case "any":
            return not is_list and not pa.types.is_struct(found)
        case "encoded pictures (binary)":
            return _is_binary(found)
        case "lists of encoded pictures (binary)":
            return inner is not None and _is_binary(inner)
        case "lists of texts":
            return inner is not None and (pa.types.is_string(inner) or pa.types.is_large_string(inner))
        case "lists of numbers":
            return inner is not None and pa.types.is_floating(inner)
        case _:
            assert_never(wanted)


def _is_binary(found: pa.DataType) -> bool:
    return bool(pa.types.is_binary(found) or pa.types.is_large_binary(found) or pa.types.is_fixed_size_binary(found))
