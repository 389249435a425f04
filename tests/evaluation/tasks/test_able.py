"""Every family is asked for every task: it does it, or says that it cannot."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from capfilt.config.downstream import AnyTask
from capfilt.errors import ConfigError, InputError
from capfilt.evaluation.tasks import measure
from capfilt.evaluation.tasks.able import ABLE, FAMILY_NAMES, check
from capfilt.evaluation.tasks.base import Asked
from capfilt.modeling.families import Loaded

FAMILIES = ("med", "coca", "soho", "blip2", "blip2_gpt", "blip2_t5", "clipcap")
DOCS = Path(__file__).parents[3] / "docs" / "evaluate.md"
FILES = {
    "retrieval": "pairs",
    "captioning": "pairs",
    "zero_shot": "labelled",
    "frozen_classifier": "labelled",
    "video_retrieval": "clips",
    "video_classification": "clips",
}
"""By kind, where it is not the kind's own name."""


@pytest.fixture
def make_task(data: Path) -> Callable[..., AnyTask]:
    def make(kind: str, **more: Any) -> AnyTask:
        name = FILES.get(kind, kind)
        told: dict[str, Any] = {"kind": kind, "data": str(data / f"test-{name}.parquet"), **more}
        if kind in ("vqa", "entailment", "two_images", "frozen_classifier", "video_classification"):
            told |= {"train": str(data / f"train-{name}.parquet"), "fit": {"steps": 1, "batch_size": 4}}
        if kind == "captioning":
            told |= {"decode": {"kind": "greedy", "min_length": 7, "max_length": 10}}
        task: AnyTask = TypeAdapter(AnyTask).validate_python(told)
        return task

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_does_each_task_or_says_that_it_cannot(
    family: str, make_asked: Callable[..., Asked], make_task: Callable[..., AnyTask]
) -> None:
    asked = make_asked(family)
    for kind, able in ABLE.items():
        task = make_task(kind)
        if type(asked.model) in able:
            check(task, asked.loaded)
            assert measure(task, asked)["n"] == 12, kind
            continue
        name = FAMILY_NAMES[type(asked.model)]
        for refusing in (check, lambda task, loaded: measure(task, asked)):
            with pytest.raises(ConfigError, match=rf"^{kind}: expected a .*, found a {name}\. Name another model, or"):
                refusing(task, asked.loaded)  # type: ignore[operator]


def test_the_page_names_the_families_of_each_task() -> None:
    head, _, *rows = re.findall(r"^\|.*\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)[: len(ABLE) + 2]
    families = [cell.strip() for cell in head.strip("|").split("|")][2:]
    assert families == list(FAMILY_NAMES.values())
    told = {}
    for row in rows:
        kind, _, *cells = (cell.strip() for cell in row.strip("|").split("|"))
        told[kind.strip("`")] = {family for family, cell in zip(families, cells, strict=True) if cell != "–"}
    assert told == {kind: {FAMILY_NAMES[family] for family in able} for kind, able in ABLE.items()}


@pytest.mark.parametrize(
    ("family", "kind", "more", "message"),
    [
        ("coca", "retrieval", {"rerank_top_k": 4}, r"retrieval\.rerank_top_k: expected 0 for a CoCa, which has no ITM, found 4"),
        ("med", "captioning", {"embedding": "vector"}, r"captioning\.embedding: expected none for a MED, which takes pictures"),
        ("soho", "vqa", {"by": "rank"}, r"vqa\.by: expected classify for a SOHO, which has no answer decoder, found rank"),
        ("med", "vqa", {"lm_weight": 1}, r"vqa\.lm_weight: expected it for a CoCa alone, found 1 for a MED"),
        ("soho", "two_images", {"by": "merge"}, r"two_images\.by: expected apart for a SOHO, .* found merge"),
    ],
)
def test_a_way_that_a_family_has_not_is_refused(
    family: str,
    kind: str,
    more: dict[str, Any],
    message: str,
    make_loaded: Callable[[str], Loaded],
    make_task: Callable[..., AnyTask],
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(make_task(kind, **more), make_loaded(family))


@pytest.mark.parametrize(
    ("role", "kind", "message"),
    [
        (
            "captioner",
            "retrieval",
            r"retrieval: expected a MED that reads texts with pictures \(a filter\), found one whose",
        ),
        ("captioner", "vqa", "vqa: expected a MED that reads"),
        ("filter", "captioning", r"captioning: expected a MED that writes \(a captioner\)"),
        ("filter", "vqa", "vqa: expected a MED that writes"),
    ],
)
def test_a_checkpoint_of_one_role_is_not_asked_for_the_other(
    role: str, kind: str, message: str, make_loaded: Callable[[str], Loaded], make_task: Callable[..., AnyTask]
) -> None:
    loaded = make_loaded("med")
    half = Loaded(loaded.model, loaded.architecture.model_copy(update={"roles": (role,)}), loaded.tokenizer)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=message):
        check(make_task(kind), half)


def test_a_med_that_only_reads_answers_by_class(make_loaded: Callable[[str], Loaded], make_task: Callable[..., AnyTask]) -> None:
    loaded = make_loaded("med")
    half = Loaded(loaded.model, loaded.architecture.model_copy(update={"roles": ("filter",)}), loaded.tokenizer)  # type: ignore[union-attr]
    check(make_task("vqa", by="classify"), half)


def test_a_wrong_file_is_told_before_any_work(
    make_loaded: Callable[[str], Loaded], make_task: Callable[..., AnyTask], tmp_path: Path
) -> None:
    loaded, path = make_loaded("med"), tmp_path / "x.parquet"
    task = make_task("retrieval").model_copy(update={"data": str(path)})
    with pytest.raises(InputError, match="expected a Parquet file, found none"):
        check(task, loaded)
    path.write_bytes(b"no Parquet")
    with pytest.raises(InputError, match="expected a Parquet file, found"):
        check(task, loaded)
    pq.write_table(pa.table({"image": ["cat.jpg"], "captions": [["a"]]}), path)
    with pytest.raises(InputError, match=r"expected encoded pictures \(binary\) in column image, found string; write it so"):
        check(task, loaded)
    pq.write_table(pa.table({"image": [b"x"], "captions": ["a"]}), path)
    with pytest.raises(InputError, match="expected lists of texts in column captions, found string"):
        check(task, loaded)
    pq.write_table(pa.table({"image": [b"x"]}), path)
    with pytest.raises(InputError, match="expected the columns image, captions, found no captions"):
        check(task, loaded)
    pq.write_table(pa.table({"image": pa.array([], pa.binary()), "captions": pa.array([], pa.list_(pa.string()))}), path)
    with pytest.raises(InputError, match="expected rows with image, captions, found none"):
        check(task, loaded)
    with pytest.raises(InputError, match="expected a Parquet file, found"):
        check(task.model_copy(update={"data": str(tmp_path)}), loaded)


def test_what_is_learnt_from_is_looked_at_too(
    make_loaded: Callable[[str], Loaded], make_task: Callable[..., AnyTask], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"gone\.parquet: expected a Parquet file, found none"):
        check(make_task("vqa").model_copy(update={"train": str(tmp_path / "gone.parquet")}), make_loaded("med"))
