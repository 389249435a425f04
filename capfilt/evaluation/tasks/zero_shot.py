"""Task `zero_shot`: the label whose texts lie nearest to the picture (CoCa section 4.2.2; prompts averaged as in CLIP).

Trains nothing.
"""

import numpy as np
import torch.nn.functional as F

from capfilt.config.downstream import ZeroShotTask
from capfilt.errors import InputError
from capfilt.evaluation.tasks.able import check_family
from capfilt.evaluation.tasks.base import Asked, Measured, majority
from capfilt.evaluation.tasks.data import Labels, read_task
from capfilt.evaluation.tasks.similar import cosines, image_embeds, text_features
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.med.network import MED


def zero_shot(task: ZeroShotTask, asked: Asked) -> Measured:
    """Accuracy.

    Raises:
        ConfigError: If the network has no common space of pictures and texts.
        InputError: If a row's label is none of `labels`.
    """
    check_family(task, asked.loaded)
    model: MED | CoCa | QFormer = asked.model
    rows = read_task(task.data, ("image", task.column))
    labels = Labels(task.labels if task.labels is not None else [row[task.column] for row in rows])
    truth_N = labels.numbers([row[task.column] for row in rows])
    if (truth_N < 0).any():
        unknown = rows[int((truth_N < 0).argmax())][task.column]
        raise InputError(f"{task.data}: expected labels among {', '.join(labels.names)}, found {unknown}; add it to `labels`")
    texts = [template.format(label=name) for name in labels.names for template in task.templates]
    features_ME = text_features(asked, texts)
    class_CE = F.normalize(features_ME.view(len(labels), len(task.templates), -1).mean(1), dim=-1)
    shown = asked.show([[row["image"]] for row in rows], "pictures", task.data)
    sims_NC = cosines(model, image_embeds(asked, shown), class_CE)
    shown.close()
    is_right = np.argmax(sims_NC, axis=1) == truth_N
    return {"n": len(rows), "classes": len(labels), "majority": majority(truth_N), "accuracy": asked.share(is_right)}
