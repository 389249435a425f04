"""Task `retrieval`: texts for pictures and pictures for texts; and `video_retrieval`, the same with clips.

Ranks and recalls are `evaluation.retrieval`'s.
"""

import numpy as np

from capfilt.config.downstream import RetrievalTask, VideoRetrievalTask
from capfilt.evaluation.retrieval import Float32Array, Ranks, rank_by_itc, rank_by_itm
from capfilt.evaluation.tasks.able import check_family
from capfilt.evaluation.tasks.base import Asked, Int64Array, Measured
from capfilt.evaluation.tasks.data import Shown, evenly, read_task
from capfilt.evaluation.tasks.similar import PairMatcher, clip_features, cosines, image_embeds, text_features
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.coca.network import CoCa
from capfilt.modeling.med.network import MED
from capfilt.modeling.soho.network import SOHO

RERANKED = 16


def retrieval(task: RetrievalTask, asked: Asked) -> Measured:
    """Recalls both ways.

    Raises:
        ConfigError: If the network neither contrasts nor matches, or is asked to re-rank without ITM.
    """
    check_family(task, asked.loaded)
    model: MED | CoCa | QFormer | SOHO = asked.model
    rows = read_task(task.data, ("image", "captions"))
    texts = [str(text) for row in rows for text in row["captions"]]
    image_of_text_M: Int64Array = np.repeat(np.arange(len(rows)), [len(row["captions"]) for row in rows])
    shown = asked.show([[row["image"]] for row in rows], "pictures", task.data)
    embeds = image_embeds(asked, shown)
    shown.close()
    if isinstance(model, SOHO):
        # No common space: every pair is matched, and zeros stand where others have cosines.
        sims_NM: Float32Array = np.zeros((len(rows), len(texts)), dtype=np.float32)
        top_k = max(sims_NM.shape)
    else:
        sims_NM = cosines(model, embeds, text_features(asked, texts))
        default = 0 if isinstance(model, CoCa) else RERANKED
        top_k = default if task.rerank_top_k is None else task.rerank_top_k
    itm = PairMatcher(asked, embeds, texts)
    ranks = rank_by_itm(sims_NM, image_of_text_M, top_k, itm) if top_k else rank_by_itc(sims_NM, image_of_text_M)
    found = _recalls(asked, ranks, image_of_text_M, task.recall_at)
    return {"n": len(rows), "texts": len(texts), "rerank_top_k": top_k, **found}


def video_retrieval(task: VideoRetrievalTask, asked: Asked) -> Measured:
    """Recalls both ways by the cosine of text and mean frame.

    Raises:
        ConfigError: If the network has no common space with one vector per picture.
    """
    check_family(task, asked.loaded)
    rows = read_task(task.data, ("frames", "captions"))
    texts = [str(text) for row in rows for text in row["captions"]]
    image_of_text_M: Int64Array = np.repeat(np.arange(len(rows)), [len(row["captions"]) for row in rows])
    shown = clips(rows, task.frames, asked, task.data)
    sims_NM: Float32Array = (clip_features(asked, shown) @ text_features(asked, texts).T).float().cpu().numpy()
    shown.close()
    ranks = rank_by_itc(sims_NM, image_of_text_M)
    found = _recalls(asked, ranks, image_of_text_M, task.recall_at)
    return {"n": len(rows), "texts": len(texts), "frames": task.frames, **found}


def clips(rows: list[dict[str, list[bytes]]], frames: int, asked: Asked, name: str) -> Shown:
    """`frames` frames of each row's, at equal distances."""
    taken = [[row["frames"][i] for i in evenly(len(row["frames"]), frames)] for row in rows]
    return asked.show(taken, f"clips-{len(list(asked.work.glob('clips-*')))}", name)


def _recalls(asked: Asked, ranks: Ranks, image_of_text_M: Int64Array, at: list[int]) -> Measured:
    """Each with `blind`, what ranks by lot get."""
    rows, texts = len(ranks.of_text_N), len(image_of_text_M)
    own_N = np.bincount(image_of_text_M, minlength=rows)
    found: Measured = {}
    for k in at:
        # None of an image's own texts is among k of all: each place in turn goes to another text.
        places = np.arange(min(k, texts))
        missed_N = np.prod(np.maximum(0, texts - own_N[:, None] - places) / (texts - places), axis=1)
        found[f"text_r{k}"] = {**asked.share(ranks.of_text_N < k), "blind": float(1 - missed_N.mean())}
    for k in at:
        share = asked.share_by_row(ranks.of_image_M < k, image_of_text_M, rows)
        found[f"image_r{k}"] = {**share, "blind": min(1.0, k / rows)}
    return found
