"""Everything that is measured after a round, as one dict of plain values: `metrics.json`.

Asks models and tables; knows nothing of how a round made them.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from capfilt.captioners import build_captioner
from capfilt.config.evaluate import CaptioningConfig, EvaluateConfig, RetrievalConfig
from capfilt.config.round import CaptionConfig, TrainedModel
from capfilt.config.select import SelectConfig
from capfilt.errors import ConfigError, InputError
from capfilt.evaluation.bootstrap import interval_of_mean_ratio, interval_of_ratio
from capfilt.evaluation.captioning import cider_d
from capfilt.evaluation.filter_quality import filter_quality
from capfilt.evaluation.retrieval import Ranks, rank_by_itc, rank_by_itm, recalls
from capfilt.evaluation.scoring import PairScorer
from capfilt.evaluation.truth import Heldout, Truth, read_heldout, read_truth
from capfilt.identity import row_seed
from capfilt.images import ImageError, decode_rgb

Metrics = dict[str, Any]
EXAMPLES = 24
CAPTION_BATCH = 64
DECIMALS = 6


def evaluate(
    config: EvaluateConfig,
    *,
    models: Mapping[str, Path],
    candidates: tuple[str, ...],
    selection: str | None,
    round_number: int,
    seed: int,
    device: str,
    prompt: str,
    policy: SelectConfig,
) -> Metrics:
    """Retrieval and captioning of the round's models on held-out pairs; the quality of the filter that made its data.

    Args:
        models: Folders by role: pretrained, captioner, filter.
        candidates: The round's candidates, scored by the round before's filter; empty in round 0.
        selection: What was kept of them.
        seed: Of bootstrap and sampling.
        prompt: The captioner's.
        policy: What the candidates' scores are judged by.

    Returns:
        JSON values, floats rounded to 6 digits; a part that was not asked for, or has no data, is None.

    Raises:
        ConfigError: If a model is asked for that the round has not.
        InputError: If a file is missing, lacks a column, has one of another type, or holds what is no picture.
    """
    truth = read_truth(config.truth) if config.truth is not None else {}
    found: Metrics = {"round": round_number, "primary": None, "retrieval": None, "captioning": None, "filter_quality": None}
    if config.retrieval is not None or config.captioning is not None:
        heldout = read_heldout(config.heldout)
        with ThreadPoolExecutor() as pool:
            images = list(pool.map(partial(_decoded, config.heldout), heldout.keys, heldout.images))
        if config.retrieval is not None:
            found["retrieval"] = _retrieval(
                config, config.retrieval, _model(models, config.retrieval.model), heldout, images, seed, device
            )
            measured = found["retrieval"]["mean_recall_at_1"]
            found["primary"] = {
                "name": config.primary,
                "value": measured,
                "interval": found["retrieval"]["interval"][config.primary],
            }
        if config.captioning is not None:
            folder = _model(models, config.captioning.model)
            found["captioning"] = _captioning(config, config.captioning, folder, heldout, images, truth, seed, device, prompt)
    if config.filter_quality is not None and candidates:
        found["filter_quality"] = filter_quality(
            candidates,
            truth,
            policy=policy,
            selection=selection,
        )
    told: Metrics = rounded(found)
    return told


def _decoded(path: str, key: str, encoded: bytes) -> Image:
    try:
        return decode_rgb(encoded)
    except ImageError as error:
        raise InputError(f"{path}, key {key}: expected an encoded picture, found {error}; replace it or leave it out") from None


def _model(models: Mapping[str, Path], role: str) -> Path:
    if role not in models:
        raise ConfigError(
            f"evaluate: expected one of the models {', '.join(models)}, found {role}; add `finetune` or name another"
        )
    return models[role]


def _retrieval(
    config: EvaluateConfig,
    asked: RetrievalConfig,
    folder: Path,
    heldout: Heldout,
    images: list[Image],
    seed: int,
    device: str,
) -> Metrics:
    texts = [text for captions in heldout.captions for text in captions]
    image_of_text_M = np.repeat(np.arange(len(images)), [len(captions) for captions in heldout.captions])
    scorer = PairScorer(folder, images, texts, device=device)
    sims_NM = scorer.cosines()
    by_itc = rank_by_itc(sims_NM, image_of_text_M)
    top_k = asked.rerank_top_k
    ranks = rank_by_itm(sims_NM, image_of_text_M, top_k, scorer.itm_logits) if top_k else by_itc
    text_counts = np.ones(len(images))
    image_counts = np.bincount(image_of_text_M, minlength=len(images)).astype(np.float64)
    means: dict[int, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    draws = {"draws": config.bootstrap, "seed": seed}
    for k in dict.fromkeys((1, *asked.recall_at)):
        text_hits = (ranks.of_text_N < k).astype(np.float64)
        image_hits = np.bincount(image_of_text_M, ranks.of_image_M < k, len(images)).astype(np.float64)
        means[k] = float(text_hits.mean() + (ranks.of_image_M < k).mean()) / 2
        both = ((text_hits, text_counts), (image_hits, image_counts))
        intervals[f"mean_recall_at_{k}"] = interval_of_mean_ratio(*both, **draws)
        intervals[f"text_retrieval_r{k}"] = interval_of_ratio(text_hits, text_counts, **draws)
        intervals[f"image_retrieval_r{k}"] = interval_of_ratio(image_hits, image_counts, **draws)
    return {
        "pairs": len(images),
        "texts": len(texts),
        "model": asked.model,
        "rerank_top_k": top_k,
        **_both(ranks, asked),
        "mean_rank": {
            "text_retrieval": float(ranks.of_text_N.mean()) + 1,
            "image_retrieval": float(ranks.of_image_M.mean()) + 1,
        },
        "itc_only": _both(by_itc, asked),
        **{f"mean_recall_at_{k}": value for k, value in means.items()},
        "interval": intervals,
    }


def _both(ranks: Ranks, asked: RetrievalConfig) -> Metrics:
    return {
        "text_retrieval": recalls(ranks.of_text_N, asked.recall_at),
        "image_retrieval": recalls(ranks.of_image_M, asked.recall_at),
    }


def _captioning(
    config: EvaluateConfig,
    asked: CaptioningConfig,
    folder: Path,
    heldout: Heldout,
    images: list[Image],
    truth: Mapping[str, Truth],
    seed: int,
    device: str,
    prompt: str,
) -> Metrics:
    as_stage = CaptionConfig(captioner=TrainedModel(kind="trained"), prompt=prompt, decode=asked.decode, batch_size=CAPTION_BATCH)
    captioner = build_captioner(as_stage, trained=str(folder), device=device)
    captions: list[str] = []
    for start in range(0, len(images), CAPTION_BATCH):
        keys = heldout.keys[start : start + CAPTION_BATCH]
        seeds = [[row_seed(seed, 0, "evaluate", asked.model, key, 0)] for key in keys]
        captions += [texts[0].text for texts in captioner.caption(images[start : start + CAPTION_BATCH], seeds=seeds)]
    found: Metrics = {"pairs": len(images), "model": asked.model, "cider_d": None, "cider_d_interval": None}
    draws = {"draws": config.bootstrap, "seed": seed}
    if "cider_d" in asked.measures:
        scores = np.array(cider_d(captions, heldout.captions))
        found["cider_d"] = float(scores.mean())
        found["cider_d_interval"] = interval_of_ratio(scores, np.ones(len(scores)), **draws)
    known = [truth.get(key) for key in heldout.keys]
    is_true = [None if t is None else t.is_true(caption) for t, caption in zip(known, captions, strict=True)]
    whole = [t.is_whole(caption) for t, caption in zip(known, captions, strict=True) if t is not None]
    is_whole = [value for value in whole if value is not None]
    judged = [value for value in is_true if value is not None]
    wanted = "exact_scene" in asked.measures and bool(judged)
    found["exact_scene"] = sum(is_whole) / len(is_whole) if wanted else None
    found["true"] = sum(judged) / len(judged) if wanted else None
    found["true_interval"] = interval_of_ratio(np.array(judged, float), np.ones(len(judged)), **draws) if wanted else None
    found["examples"] = [
        {"key": key, "caption": caption, "references": references, "true": value}
        for key, caption, references, value in list(zip(heldout.keys, captions, heldout.captions, is_true, strict=True))[
            :EXAMPLES
        ]
    ]
    return found


def rounded(value: Any) -> Any:
    """JSON values with floats of `DECIMALS` digits."""
    if isinstance(value, float):
        return round(float(value), DECIMALS)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return value
