"""A MED of a few thousand parameters, and batches for it."""

from collections.abc import Callable

import pytest
import torch

from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.architectures.parts import TextConfig, VisionConfig
from capfilt.modeling.batch import Batch
from capfilt.modeling.build import build
from capfilt.modeling.med import MED


@pytest.fixture
def architecture() -> MedArchitecture:
    return MedArchitecture(
        kind="med",
        image=VisionConfig(size=16, patch=4, width=16, layers=2, heads=2, stem="conv", positions="sincos2d"),
        text=TextConfig(
            vocabulary="trained",
            vocab_size=40,
            width=16,
            layers=2,
            heads=2,
            intermediate=32,
            max_positions=24,
            cls_id=2,
            sep_id=3,
        ),
        embed_dim=8,
        queue_size=12,
        max_text_length=12,
        init_std=0.2,
    )


@pytest.fixture
def model(architecture: MedArchitecture) -> MED:
    return build(architecture, seed=0)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    def make(pairs: int = 5, length: int = 8, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(5, 38, (pairs, length), generator=generator)
        lengths = torch.randint(4, length + 1, (pairs,), generator=generator)
        lengths[0] = length
        mask = (torch.arange(length)[None] < lengths[:, None]).long()
        ids[:, 0] = 2
        ids[torch.arange(pairs), lengths - 1] = 3
        pixels = torch.randn(pairs, 3, 16, 16, generator=generator)
        return Batch(pixels, ids * mask, mask, torch.arange(pairs) + 100 * seed)

    return make
