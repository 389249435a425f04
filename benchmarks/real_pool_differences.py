"""What each arm of real_pool.py finds more of than the raw one, picture by picture, with intervals.

    python benchmarks/real_pool_differences.py RUN HELDOUT     of a run folder of real_pool.py; printed as JSON

The arms look for the same held-out pictures and texts, so their differences are taken per picture before a bootstrap draws
pictures: what makes a picture hard for all arms does not widen the interval. Seeds are not in it: one model stands for each arm.
"""

import argparse
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capfilt.evaluation.bootstrap import interval_of_mean_ratio, interval_of_ratio
from capfilt.evaluation.retrieval import Ranks, rank_by_itc

Float64Array = npt.NDArray[np.float64]
FOLDERS = {"raw": "round-0", "filter_only": "arms/filter_only", "captioner_only": "arms/captioner_only", "both": "round-1"}
DRAWS = 1000
K = 10


@dataclass(frozen=True)
class Found:
    """Per picture [N]: whether a text of its own is among the first K (0 or 1); of its own texts, how many have it among their
    first K, and the sum of its places (1 is first)."""

    text_hits: Float64Array
    image_hits: Float64Array
    image_ranks: Float64Array


def found_by(ranks: Ranks, image_of_text_M: npt.NDArray[np.int64]) -> Found:
    images = len(ranks.of_text_N)
    is_hit_M = (ranks.of_image_M < K).astype(float)
    hits, places = (np.bincount(image_of_text_M, of_text_M, images) for of_text_M in (is_hit_M, ranks.of_image_M + 1.0))
    return Found((ranks.of_text_N < K).astype(float), hits, places)


def differences(found: Mapping[str, Found], texts_per_picture: Float64Array, *, seed: int = 0) -> dict[str, Any]:
    """Per arm mean recall@K and mean rank of a picture; for all but `raw` the 95 % interval of the difference to raw's."""
    ones = np.ones(len(texts_per_picture))
    told: dict[str, Any] = {}
    for name, own in found.items():
        text, image = own.text_hits.mean(), own.image_hits.sum() / texts_per_picture.sum()
        told[name] = {
            f"mean_recall_at_{K}": round(float(text + image) / 2, 4),
            "mean_rank_of_picture": round(float(own.image_ranks.sum() / texts_per_picture.sum()), 1),
        }
        if name == "raw":
            continue
        raw = found["raw"]
        more = ((own.text_hits - raw.text_hits, ones), (own.image_hits - raw.image_hits, texts_per_picture))
        places = own.image_ranks - raw.image_ranks
        told[name]["more_than_raw"] = {
            f"mean_recall_at_{K}": _rounded(interval_of_mean_ratio(*more, draws=DRAWS, seed=seed), 4),
            "mean_rank_of_picture": _rounded(interval_of_ratio(places, texts_per_picture, draws=DRAWS, seed=seed), 1),
        }
    return told


def _rounded(interval: tuple[float, float], digits: int) -> list[float]:
    return [round(value, digits) for value in interval]


def measure(run: Path, heldout: Path, *, seed: int = 0) -> dict[str, Any]:
    """Of the arms whose pre-trained model is there."""
    from PIL import Image

    from capfilt.evaluation.scoring import PairScorer
    from capfilt.evaluation.truth import read_heldout

    pairs = read_heldout(str(heldout))
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pairs.images]
    texts = [text for captions in pairs.captions for text in captions]
    counts_N = np.array([len(captions) for captions in pairs.captions])
    image_of_text_M = np.repeat(np.arange(len(images)), counts_N)
    found = {}
    for name, folder in FOLDERS.items():
        model = run / folder / "models" / "pretrained"
        if model.exists():
            cosines = PairScorer(model, images, texts, device="cpu").cosines()
            found[name] = found_by(rank_by_itc(cosines, image_of_text_M), image_of_text_M)
    return differences(found, counts_N.astype(float), seed=seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("heldout", type=Path)
    args = parser.parse_args()
    print(json.dumps(measure(args.run, args.heldout), indent=1))
