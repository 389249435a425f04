"""Tasks on a frozen encoder: `frozen_classifier` (several heads that share its features) and `video_classification`.

The encoder is no part of what is trained; each picture goes through it once (CoCa section 3.3).
"""

from collections.abc import Callable
from math import prod

import numpy as np
import torch
from torch import Tensor

from capfilt.config.downstream import FrozenClassifierTask, VideoClassificationTask
from capfilt.evaluation.tasks.able import check_family
from capfilt.evaluation.tasks.base import Asked, Int64Array, Measured, majority
from capfilt.evaluation.tasks.data import Labels, Rows, Shown, read_task
from capfilt.evaluation.tasks.fit import fit
from capfilt.evaluation.tasks.retrieval import clips
from capfilt.identity import stage_seed
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.heads import Examples, HeadTraining, PooledHeads
from capfilt.modeling.med.network import MED
from capfilt.modeling.soho.network import SOHO

CACHE_BYTES = 2 << 30


class FrozenTokens:
    """Tokens [B, I * N, D] of rows that show I pictures each; kept where all fit into memory, so that none is encoded twice."""

    def __init__(self, asked: Asked, shown: Shown, cache_bytes: int = CACHE_BYTES) -> None:
        self._asked, self._shown = asked, shown
        first = self._encoded(np.arange(1))
        self.width = first.shape[-1]
        self._kept: Tensor | None = None
        if len(shown) * prod(first.shape[1:]) * first.element_size() <= cache_bytes:
            self._kept = torch.cat([self._encoded(rows_B) for rows_B in asked.parts(len(shown))])

    def take(self, rows_B: Int64Array) -> Tensor:
        if self._kept is None:
            return self._encoded(rows_B)
        return self._kept[torch.from_numpy(rows_B).to(self._kept.device)]

    @torch.no_grad()
    def _encoded(self, rows_B: Int64Array) -> Tensor:
        """Not in inference mode: a head's backward pass needs them."""
        pixels_BICHW = self._asked.normalised(self._shown.take(rows_B))
        model: MED | CoCa | SOHO = self._asked.model
        encode: Callable[[Tensor], Tensor] = model.image_tokens if isinstance(model, CoCa) else model.encode_image
        tokens_GND = encode(pixels_BICHW.flatten(0, 1))
        return tokens_GND.view(len(rows_B), -1, tokens_GND.shape[-1])


def frozen_classifier(task: FrozenClassifierTask, asked: Asked) -> Measured:
    """Accuracy of each column's head.

    Raises:
        ConfigError: If the network gives no tokens of a picture.
    """
    check_family(task, asked.loaded)

    def show(rows: Rows, path: str) -> Shown:
        return asked.show([[row["image"]] for row in rows], f"pictures-{path == task.train}", path)

    return _classified(task, asked, ("image", *task.columns), tuple(task.columns), show, frames=0)


def video_classification(task: VideoClassificationTask, asked: Asked) -> Measured:
    """Accuracy of one head on the space-time tokens.

    Raises:
        ConfigError: If the network gives no tokens of a picture.
    """
    check_family(task, asked.loaded)
    frames = task.frames if task.frame_positions == "learned" else 0
    return _classified(
        task,
        asked,
        ("frames", task.column),
        (task.column,),
        lambda rows, path: clips(rows, task.frames, asked, path),
        frames=frames,
    )


def _classified(
    task: FrozenClassifierTask | VideoClassificationTask,
    asked: Asked,
    read: tuple[str, ...],
    columns: tuple[str, ...],
    show: Callable[[Rows, str], Shown],
    *,
    frames: int,
) -> Measured:
    learnt, judged = read_task(task.train, read), read_task(task.data, read)
    labels = [Labels([row[column] for row in learnt]) for column in columns]
    truth_NK = np.stack([of.numbers([row[c] for row in learnt]) for of, c in zip(labels, columns, strict=True)], axis=1)
    shown = show(learnt, task.train)
    tokens = FrozenTokens(asked, shown)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage_seed(asked.seed, "head", task.label))
        head = PooledHeads(
            tokens.width, [len(of) for of in labels], width=task.pooler_width, heads=task.pooler_heads, frames=frames
        )

    def batch(rows_B: Int64Array) -> Examples:
        return Examples(tokens.take(rows_B), torch.from_numpy(truth_NK[rows_B]).to(asked.device))

    fit(HeadTraining(head), len(learnt), batch, task.fit, asked)
    shown.close()
    shown = show(judged, task.data)
    seen = FrozenTokens(asked, shown)
    found: list[list[Tensor]] = [[] for _ in columns]
    with torch.inference_mode():
        for rows_B in asked.parts(len(judged)):
            for kept, scores_BC in zip(found, head(seen.take(rows_B)), strict=True):
                kept.append(scores_BC.argmax(1).cpu())
    shown.close()
    measured: Measured = {"n": len(judged), "trained_on": len(learnt)}
    for column, of, kept in zip(columns, labels, found, strict=True):
        truth_N = of.numbers([row[column] for row in judged])
        name = "accuracy" if len(columns) == 1 else f"accuracy_{column}"
        measured[name] = {**asked.share(torch.cat(kept).numpy() == truth_N), "majority": majority(truth_N)}
    return measured
