"""Task `vqa`: answers to questions about pictures, ranked, written, or as classes.

MED: question encoder and answer decoder (BLIP section 5.3). CoCa and SOHO: a classifier of the joint representation (CoCa's
appendix B, with the captioning loss of question and answer beside it; SOHO section 4.3), which MED can be asked for too.
"""

import copy
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import torch

from capfilt.config.downstream import VqaTask
from capfilt.errors import ConfigError
from capfilt.evaluation.tasks.able import check_family
from capfilt.evaluation.tasks.base import Asked, Int64Array, Measured, majority
from capfilt.evaluation.tasks.data import Labels, Rows, Shown, read_task
from capfilt.evaluation.tasks.fit import fit
from capfilt.evaluation.tasks.joint import classified
from capfilt.identity import row_seed, stage_seed
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.med.network import MED
from capfilt.modeling.med.vqa import Answered, MedVqa

COLUMNS = ("image", "question", "answer")
EXAMPLES = 8


def vqa(task: VqaTask, asked: Asked) -> Measured:
    """Share of answers that are the given one, but for case and space; `blind`: what the questions alone would tell.

    Raises:
        ConfigError: If the network cannot answer, or not in the way asked for.
    """
    check_family(task, asked.loaded)
    by = task.by or ("rank" if isinstance(asked.model, MED) else "classify")
    learnt, judged = read_task(task.train, COLUMNS), read_task(task.data, COLUMNS)
    answers = Labels([_plain(text) for text in task.answers or [row["answer"] for row in learnt]])
    truth = [_plain(row["answer"]) for row in judged]
    if by == "classify":
        known = answers.numbers([_plain(row["answer"]) for row in learnt])
        kept = [row for row, number in zip(learnt, known, strict=True) if number >= 0]
        if not kept:
            raise ConfigError(f"{task.label}.answers: expected answers that {task.train} has, found none of them. Correct them")
        lm_weight = 1.0 if task.lm_weight is None else task.lm_weight
        writes = isinstance(asked.model, CoCa) and lm_weight > 0
        found_N = classified(
            asked,
            task.label,
            task.fit,
            train=task.train,
            data=task.data,
            pictures=("image",),
            text="question",
            learnt=kept,
            learnt_classes=known[known >= 0],
            judged=judged,
            classes=len(answers),
            answers=True,
            written=[f"{row['question']} {_plain(row['answer'])}" for row in kept] if writes else None,
            lm_weight=lm_weight,
        )
        said = [answers.names[i] for i in found_N]
    else:
        said = _answered(task, asked, by == "rank", answers.names, learnt, judged)
    numbers = Labels(truth).numbers(truth)
    is_right = [own == given for own, given in zip(said, truth, strict=True)]
    return {
        "n": len(judged),
        "trained_on": len(learnt),
        "by": by,
        "answers": len(answers),
        "accuracy": {**asked.share(is_right), "majority": majority(numbers), "blind": _blind(learnt, judged)},
        "examples": [
            {"question": row["question"], "answer": row["answer"], "said": text}
            for row, text in zip(judged[:EXAMPLES], said, strict=False)
        ],
    }


def _answered(task: VqaTask, asked: Asked, is_ranked: bool, answers: list[str], learnt: Rows, judged: Rows) -> list[str]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage_seed(asked.seed, "head", task.label))
        network = MedVqa(copy.deepcopy(asked.model))

    def pixels(shown: Shown, rows_B: Int64Array) -> Any:
        return asked.normalised(shown.take(rows_B)[:, 0])

    def batch(rows_B: Int64Array) -> Answered:
        questions = asked.tokens([str(learnt[i]["question"]) for i in rows_B])
        return Answered(pixels(shown, rows_B), *questions, *asked.tokens([_plain(learnt[i]["answer"]) for i in rows_B]))

    shown = asked.show([[row["image"]] for row in learnt], "pictures-train", task.train)
    fit(network, len(learnt), batch, task.fit, asked)
    shown.close()
    shown = asked.show([[row["image"]] for row in judged], "pictures-data", task.data)
    ids_AT, mask_AT = asked.tokens(answers)
    tokenizer: Any = asked.loaded.tokenizer
    said: list[str] = []
    for rows_B in asked.parts(len(judged)):
        with torch.inference_mode():
            questions = network.read(pixels(shown, rows_B), *asked.tokens([str(judged[i]["question"]) for i in rows_B]))
            if is_ranked:
                said += [answers[i] for i in network.rank(questions, ids_AT, mask_AT, task.rank_top_k).tolist()]
                continue
            seeds = [[row_seed(asked.seed, 0, "evaluate", task.label, str(i), 0)] for i in rows_B]
            written = network.generate(questions, task.decode, seeds=seeds).ids_BnL[:, 0]
        said += [_plain(tokenizer.decode(np.asarray(ids[1:]))) for ids in written.tolist()]
    shown.close()
    return said


def _blind(learnt: Rows, judged: Rows) -> float:
    """Share that is right where each question gets what it is answered most often in training, a new one what all are."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for row in learnt:
        for asked_for in (_plain(row["question"]), ""):
            answers[asked_for][_plain(row["answer"])] += 1
    # Of equally frequent ones the first by name, so that the order of rows decides nothing.
    usual = {question: min(told, key=lambda answer: (-told[answer], answer)) for question, told in answers.items()}
    said = [usual.get(_plain(row["question"]), usual[""]) for row in judged]
    return sum(own == _plain(row["answer"]) for own, row in zip(said, judged, strict=True)) / len(judged)


def _plain(text: Any) -> str:
    return " ".join(str(text).lower().split())
