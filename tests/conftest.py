"""A MED of a few thousand random parameters, saved as a run saves one; pictures to show it. Imports torch only when asked."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# A shell starts its background jobs with SIGINT ignored, and Python leaves that so: tests of Ctrl-C would wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure; slow tests show in the suite's time.
settings.register_profile("capfilt", deadline=None)
settings.load_profile("capfilt")

WORDS = [f"a {size} {colour} {shape}" for size in ("small", "large") for colour in ("red", "blue") for shape in ("disc", "star")]


@pytest.fixture(scope="session")
def med_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from capfilt.config.architectures.med import MedArchitecture
    from capfilt.config.architectures.parts import TextConfig, VisionConfig
    from capfilt.modeling.build import build
    from capfilt.modeling.tokenizer import Tokenizer
    from capfilt.modeling.weights import save_model

    tokenizer = Tokenizer.train([*WORDS, "a picture of "], 70)
    text = TextConfig(
        vocabulary="trained",
        vocab_size=len(tokenizer),
        width=16,
        layers=2,
        heads=2,
        intermediate=32,
        max_positions=20,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    architecture = MedArchitecture(
        kind="med",
        image=VisionConfig(size=16, patch=4, width=16, layers=2, heads=2, stem="conv", positions="sincos2d"),
        text=text,
        embed_dim=8,
        queue_size=0,
        max_text_length=20,
        init_std=0.5,  # large enough that pictures and seeds change what the random network says
    )
    folder = tmp_path_factory.mktemp("run") / "round-0" / "models" / "captioner"
    save_model(folder, build(architecture, seed=1), architecture, tokenizer)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's folder, made once: `round-0/models/FAMILY`."""
    from tests.tiny import save_tiny

    models = tmp_path_factory.mktemp("run") / "round-0" / "models"

    def made(family: str) -> Path:
        return models / family if (models / family).is_dir() else save_tiny(family, models / family, spread=0.3)

    return made


@pytest.fixture(scope="session")
def paint() -> Callable[[int], Image.Image]:
    """A picture of coarse noise; number and size go together."""

    def painted(number: int) -> Image.Image:
        small = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((20 + number, 26 - number % 5), Image.Resampling.NEAREST)

    return painted
