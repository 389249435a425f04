"""Tasks `entailment` and `two_images`: the class of a text together with one picture or two; the network is fine-tuned.

`classified` serves answers by class (`vqa`) too.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch

from capfilt.config.downstream import EntailmentTask, Fit, TwoImagesTask
from capfilt.evaluation.tasks.able import check_family
from capfilt.evaluation.tasks.base import Asked, Int64Array, Measured, majority
from capfilt.evaluation.tasks.data import Labels, Rows, Shown, read_task
from capfilt.evaluation.tasks.fit import fit
from capfilt.identity import stage_seed
from capfilt.modeling.heads import Examples, Grounding, HeadTraining, JointClassifier
from capfilt.modeling.med.network import MED


def entailment(task: EntailmentTask, asked: Asked) -> Measured:
    """Accuracy. Raises: ConfigError: If the network reads no text with a picture."""
    return _judged(task, asked, ("image",))


def two_images(task: TwoImagesTask, asked: Asked) -> Measured:
    """Accuracy.

    Raises:
        ConfigError: If the network reads no text with a picture, or not in the way asked for.
    """
    by = task.by or ("merge" if isinstance(asked.model, MED) else "apart")
    return {"by": by, **_judged(task, asked, ("image", "image_2"), merged=by == "merge")}


def _judged(task: EntailmentTask | TwoImagesTask, asked: Asked, pictures: tuple[str, ...], *, merged: bool = False) -> Measured:
    check_family(task, asked.loaded)
    columns = (*pictures, "text", "label")
    learnt, judged = read_task(task.train, columns), read_task(task.data, columns)
    labels = Labels([row["label"] for row in learnt])
    truth_N = labels.numbers([row["label"] for row in judged])
    found_N = classified(
        asked,
        task.label,
        task.fit,
        train=task.train,
        data=task.data,
        pictures=pictures,
        text="text",
        learnt=learnt,
        learnt_classes=labels.numbers([row["label"] for row in learnt]),
        judged=judged,
        classes=len(labels),
        merged=merged,
    )
    accuracy = {**asked.share(found_N == truth_N), "majority": majority(truth_N)}
    return {"n": len(judged), "trained_on": len(learnt), "classes": labels.names, "accuracy": accuracy}


def classified(
    asked: Asked,
    label: str,
    how: Fit,
    *,
    train: str,
    data: str,
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
    """[N]: the class of each of `judged`, by a copy of the network, fine-tuned on `learnt`.

    `answers` and `merged` as of `JointClassifier`; `written`: a text per row of `learnt` that a CoCa also learns to write.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage_seed(asked.seed, "head", label))
        network: Grounding = copy.deepcopy(asked.model)
        head = JointClassifier(network, classes, images=len(pictures), answers=answers, merged=merged)

    def examples(rows: Rows, shown: Shown, rows_B: Int64Array, classes_B: Int64Array) -> Examples:
        ids_BT, mask_BT = asked.tokens([str(rows[i][text]) for i in rows_B])
        labels_BK = torch.from_numpy(classes_B[:, None]).to(asked.device)
        told = None if written is None or rows is not learnt else asked.tokens([written[i] for i in rows_B])
        return Examples(asked.normalised(shown.take(rows_B)), labels_BK, ids_BT, mask_BT, told)

    def show(rows: Rows, name: str, path: str) -> Shown:
        return asked.show([[row[column] for column in pictures] for row in rows], f"pictures-{name}", path)

    shown = show(learnt, "train", train)
    fit(
        HeadTraining(head),
        len(learnt),
        lambda rows_B: examples(learnt, shown, rows_B, learnt_classes[rows_B]),
        how,
        asked,
        lm_weight=lm_weight,
    )
    shown.close()
    shown = show(judged, "data", data)
    found = []
    with torch.inference_mode():
        for rows_B in asked.parts(len(judged)):
            batch = examples(judged, shown, rows_B, np.zeros(len(rows_B), dtype=np.int64))
            found.append(head.scores(batch)[0].argmax(1).cpu().numpy())
    shown.close()
    classes_N: Int64Array = np.concatenate(found)
    return classes_N
