from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.config.decoding import Greedy
from capfilt.config.downstream import Fit, VqaTask
from capfilt.errors import ConfigError
from capfilt.evaluation.tasks.base import Asked
from capfilt.evaluation.tasks.vqa import vqa


@pytest.fixture
def few(data: Path, tmp_path: Path) -> str:
    path = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(data / "train-vqa.parquet").slice(0, 12), path)
    return str(path)


@pytest.mark.parametrize(("family", "by"), [("med", "rank"), ("med", "generate"), ("coca", None), ("soho", None)])
def test_answers_are_learnt_by_each_family_in_its_way(family: str, by: Any, few: str, make_asked: Callable[..., Asked]) -> None:
    fit = Fit(steps=50 if family == "soho" else 80, batch_size=12, lr=0.005, threads=1)
    task = VqaTask(kind="vqa", train=few, data=few, by=by, fit=fit, decode=Greedy(min_length=1, max_length=8))
    found = vqa(task, make_asked(family))
    assert found["by"] == (by or "classify")
    assert found["accuracy"]["value"] > 0.9 > found["accuracy"]["majority"] + 0.3


def test_a_family_without_an_answer_decoder_is_told_so(few: str, make_asked: Callable[..., Asked]) -> None:
    with pytest.raises(ConfigError, match=r"vqa\.by: expected classify for a CoCa, which has no answer decoder, found rank"):
        vqa(VqaTask(kind="vqa", train=few, data=few, by="rank"), make_asked("coca"))


def test_answers_that_the_training_rows_lack_are_refused(few: str, make_asked: Callable[..., Asked]) -> None:
    with pytest.raises(ConfigError, match=r"vqa\.answers: expected answers that .* has, found none"):
        vqa(VqaTask(kind="vqa", train=few, data=few, by="classify", answers=["maybe"]), make_asked("soho"))


def test_only_a_coca_writes_beside_its_classes(few: str, make_asked: Callable[..., Asked]) -> None:
    with pytest.raises(ConfigError, match=r"vqa\.lm_weight: expected it for a CoCa alone, found 1 for a SOHO"):
        vqa(VqaTask(kind="vqa", train=few, data=few, lm_weight=1), make_asked("soho"))


def test_what_questions_alone_tell_is_said(few: str, make_asked: Callable[..., Asked], tmp_path: Path) -> None:
    rows = pq.read_table(few).slice(0, 6)

    def write(name: str, questions: list[str], answers: list[str]) -> str:
        table = pa.table({"image": rows["image"][: len(answers)], "question": questions, "answer": answers})
        pq.write_table(table, tmp_path / name)
        return str(tmp_path / name)

    train = write("train.parquet", ["what?", "What? ", "what?", "who?", "who?", "who?"], ["a", "A", "b", "c", "c", "a"])
    data = write("data.parquet", ["what?", "what?", "who?", "why?"], ["a", "b", "c", "a"])
    found = vqa(VqaTask(kind="vqa", train=train, data=data, fit=Fit(steps=1)), make_asked("soho"))
    assert found["accuracy"]["blind"] == 0.75, "a for what, c for who, a for what was never asked"
