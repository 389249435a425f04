"""Tasks `entailment` and `two_images`: the class of a text together with one picture or two; the network is fine-tuned.

`classified` serves answers by class (`vqa`) too.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch

from capfilt.config.downstream import EntailmentTask, Fit, TwoImagesTask
from capfilt.errors import ConfigError
from capfilt.evaluation.tasks.base import Asked, Int64Array, Measured, majority, refuse
from capfilt.evaluation.tasks.data import Labels, Rows, Shown, read_task
from capfilt.evaluation.tasks.fit import fit
from capfilt.identity import stage_seed
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.heads import Examples, Grounding, HeadTraining, JointClassifier
from capfilt.modeling.med.network import MED
from capfilt.modeling.soho.network import SOHO


def entailment(task: EntailmentTask, asked: Asked) -> Measured:
    """Accuracy. Raises: ConfigError: If the network reads no text with a picture."""
    return _judged(task, asked, ("image",))


def two_images(task: TwoImagesTask, asked: Asked) -> Measured:
    """Accuracy.

    Raises:
        ConfigError: If the network reads no text with a picture, or not in the way asked for.
    """
    by = task.by or ("merge" if isinstance(asked.model, MED) else "apart")
    if by == "merge" and not isinstance(asked.model, MED):
        raise ConfigError(
            f"{task.label}.by: expected apart for a {type(asked.model).__name__}, whose layers look at one picture, found merge. "
            "Write by: apart, or name a MED"
        )
    return {"by": by, **_judged(task, asked, ("image", "image_2"), merged=by == "merge")}


def grounding(asked: Asked, label: str) -> Grounding:
    """A copy of the network, to be fine-tuned.

    Raises:
        ConfigError: If it reads no text with a picture.
    """
    model = asked.model
    if not isinstance(model, MED | CoCa | SOHO):
        raise refuse(asked, label, "a MED, CoCa or SOHO")
    return copy.deepcopy(model)


def _judged(task: EntailmentTask | TwoImagesTask, asked: Asked, pictures: tuple[str, ...], *, merged: bool = False) -> Measured:
    network = grounding(asked, task.label)
    columns = (*pictures, "text", "label")
    learnt, judged = read_task(task.train, columns), read_task(task.data, columns)
    labels = Labels([row["label"] for row in learnt])
    truth_N = labels.numbers([row["label"] for row in judged])
    found_N = classified(
        network,
        asked,
        task.label,
        task.fit,
        pictures=pictures,
        text="text",
        learnt=learnt,
        learnt_classes=labels.numbers([row["label"] for row in learnt]),
        judged=judged,
        classes=len(labels),
        merged=merged,
    )
    accuracy = {**asked.share(found_N == truth_N), "majority": majority(truth_N + 1)}
    return {"n": len(judged), "trained_on": len(learnt), "classes": labels.names, "accuracy": accuracy}


def classified(
    network: Grounding,
    asked: Asked,
    label: str,
    how: Fit,
    *,
    pictures: Sequence[str],
    text: str,
    learnt: Rows,
    learnt_classes: Int64Array,
    judged: Rows,
    classes: int,
    answers: bool = False,
    merged: bool = False,
    written: Sequence[str] | None = None,
    lm_weight: float = 1,
) -> Int64Array:
    """[N]: the class of each of `judged`, by a network fine-tuned on `learnt`.

    `answers` and `merged` as of `JointClassifier`; `written`: a text per row of `learnt` that a CoCa also learns to write.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage_seed(asked.seed, "head", label))
        head = JointClassifier(network, classes, images=len(pictures), answers=answers, merged=merged)

    def examples(rows: Rows, shown: Shown, rows_B: Int64Array, classes_B: Int64Array) -> Examples:
        ids_BT, mask_BT = asked.tokens([str(rows[i][text]) for i in rows_B])
        labels_BK = torch.from_numpy(classes_B[:, None]).to(asked.device)
        told = None if written is None or rows is not learnt else asked.tokens([written[i] for i in rows_B])
        return Examples(asked.normalised(shown.take(rows_B)), labels_BK, ids_BT, mask_BT, told)

    def show(rows: Rows, name: str) -> Shown:
        return Shown([[row[column] for column in pictures] for row in rows], asked.size, asked.work / f"pictures-{name}", name)

    shown = show(learnt, "train")
    fit(
        HeadTraining(head),
        len(learnt),
        lambda rows_B: examples(learnt, shown, rows_B, learnt_classes[rows_B]),
        how,
        asked,
        lm_weight=lm_weight,
    )
    shown.close()
    shown = show(judged, "data")
    found = []
    with torch.inference_mode():
        for rows_B in asked.parts(len(judged)):
            batch = examples(judged, shown, rows_B, np.zeros(len(rows_B), dtype=np.int64))
            found.append(head.scores(batch)[0].argmax(1).cpu().numpy())
    shown.close()
    classes_N: Int64Array = np.concatenate(found)
    return classes_N
