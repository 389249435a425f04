"""What a training learns from, by its settings: web, human and labelled pairs, in memory or as a stream, and how pictures change.

Knows nothing of networks but whether they see the middle of a picture.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from capfilt.config.architectures import Architecture
from capfilt.config.train import OptimConfig, PretrainConfig
from capfilt.modeling.clipcap.image import centre_square
from capfilt.modeling.ranks import Ranks
from capfilt.training.augment import augment
from capfilt.training.batches import split_mix
from capfilt.training.data import Kind, Labels, PairSet, WebPairs, read_pairs
from capfilt.training.pictures import Change
from capfilt.training.shards import ShardReader
from capfilt.training.start import VOCABULARY_TEXTS, takes_middle
from capfilt.training.stream import StreamedPairs

PRETRAIN_CROP, FINETUNE_CROP = 0.2, 0.5
"""Smallest share of a picture that `augment: blip` keeps (BLIP's min_scale)."""


def pretraining_sources(
    config: PretrainConfig,
    web: WebPairs,
    architecture: Architecture,
    px: int,
    work: Path,
    seed: int,
    ranks: Ranks,
    stack: ExitStack,
) -> list[tuple[PairSet | StreamedPairs, int]]:
    """Pairs and how many of them a batch has: web, human, labelled."""
    web_count, human_count, labelled_count = split_mix(config.batch_size, config.mix)
    labelled = config.labelled
    origins: list[tuple[tuple[str, ...], Kind, int]] = [
        (web.files, web.kind, web_count),
        ((config.human or "",), "human", human_count),
        (("" if labelled is None else labelled.path,), "labelled", labelled_count),
    ]
    sources: list[tuple[PairSet | StreamedPairs, int]] = []
    for number, (files, kind, count) in enumerate(origins):
        if not count:
            continue
        change = change_of(config, architecture, px, PRETRAIN_CROP, seed, number)
        labels = Labels(labelled.column, labelled.names) if kind == "labelled" and labelled is not None else None
        pairs = (
            _streamed(config, px, seed, change, stack)
            if config.web is not None and number == 0
            else held_pairs(files, kind, px, work, change, ranks, stack, labels)
        )
        sources.append((pairs, count))
    return sources


def held_pairs(
    files: Sequence[str],
    kind: Kind,
    px: int,
    work: Path,
    change: Change | None,
    ranks: Ranks,
    stack: ExitStack,
    labels: Labels | None = None,
) -> PairSet:
    """Pairs whose texts are in memory; each worker has its own spool."""
    spool = work / (f"{kind}.pictures" if ranks.size == 1 else f"{kind}-{ranks.rank}.pictures")
    pairs = read_pairs(files, kind, px, spool=spool, change=change, labels=labels)
    stack.enter_context(pairs.pictures)
    return pairs


def _streamed(config: PretrainConfig, px: int, seed: int, change: Change | None, stack: ExitStack) -> StreamedPairs:
    """Pairs of shards that may be more than memory holds."""
    assert config.web is not None
    reader = ShardReader(config.web)
    pairs = StreamedPairs(reader, px, seed=seed, shuffle_rows=config.shuffle_rows, lanes=config.interleave, change=change)
    stack.callback(pairs.close)
    return pairs


def texts_of(pairs: PairSet | StreamedPairs) -> Iterable[str]:
    return pairs.texts(VOCABULARY_TEXTS) if isinstance(pairs, StreamedPairs) else pairs.texts


def change_of(
    config: OptimConfig, architecture: Architecture, px: int, min_scale: float, seed: int, number: int
) -> Change | None:
    """What makes another picture of each at each visit: drawn from the seed, the source's number and the place in its stream."""
    if config.augment == "none":
        return (lambda picture, place: centre_square(picture, px)) if takes_middle(architecture) else None

    def change(picture: Image.Image, place: int) -> Image.Image:
        return augment(picture, px, min_scale, np.random.default_rng([seed, number, place]))

    return change
