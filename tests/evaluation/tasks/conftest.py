"""Small task files, and networks of a few thousand parameters that can read their texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from capfilt.config.architectures import Architecture
from capfilt.config.load import load_section
from capfilt.evaluation.tasks.base import Asked
from capfilt.miniweb.tasks import build_tasks
from capfilt.modeling.build import build
from capfilt.modeling.families import Loaded
from capfilt.modeling.tokenizer import Tokenizer

TEXT = "{width: 32, layers: 2, heads: 2, intermediate: 64, max_positions: 40, vocabulary: trained, vocab_size: VOCAB, CLS}"
IMAGE = "{size: 24, patch: 8, width: 32, layers: 1, heads: 2, positions: sincos2d, KIND}"
ARCHITECTURES = {
    "med": f"{{kind: med, image: {IMAGE.replace(', KIND', '')}, text: {TEXT}, embed_dim: 16, queue_size: 8, init_std: 0.1}}",
    "coca": f"{{kind: coca, image: {IMAGE.replace('KIND', 'kind: vit')}, pooler: {{queries: 4, width: 32, heads: 2}}, "
    f"text: {TEXT}, multimodal: {{layers: 1, heads: 2, intermediate: 64}}, embed_dim: 16, max_text_length: 40, init_std: 0.1}}",
    "blip2": f"{{kind: blip2, image: {IMAGE.replace(', KIND', '')}, text: {TEXT.replace('CLS', 'CLS, queries: 4')}, "
    "embed_dim: 16, max_text_length: 40, init_std: 0.1}",
    "soho": "{kind: soho, image: {size: 32, stem: small, block: basic, width: 16, blocks: [1, 1]}, dictionary: {codes: 16}, "
    f"text: {TEXT.replace('CLS', 'CLS, mask_id: 4')}, init_std: 0.1}}",
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    build_tasks(folder, rows=24, seed=0)
    return folder


@pytest.fixture(scope="session")
def tokenizer(data: Path) -> Tokenizer:
    texts: list[str] = []
    for name, columns in {"vqa": ("question", "answer"), "entailment": ("text",), "two_images": ("text",)}.items():
        for row in pq.read_table(data / f"train-{name}.parquet", columns=list(columns)).to_pylist():
            texts += row.values()
    for name in ("pairs", "clips"):
        for row in pq.read_table(data / f"train-{name}.parquet", columns=["captions"]).to_pylist():
            texts += row["captions"]
    return Tokenizer.train([*texts, "a picture of"], 300)


@pytest.fixture
def make_loaded(tokenizer: Tokenizer) -> Callable[[str], Loaded]:
    def make(family: str) -> Loaded:
        told = ARCHITECTURES[family].replace("CLS", "pad_id: 0, cls_id: 2, sep_id: 3").replace("VOCAB", str(len(tokenizer)))
        architecture = load_section(told, family, Architecture)
        return Loaded(build(architecture, seed=0).eval(), architecture, tokenizer)

    return make


@pytest.fixture
def make_asked(make_loaded: Callable[[str], Loaded], tmp_path: Path) -> Callable[..., Asked]:
    def make(family: str, **changed: Any) -> Asked:
        return Asked(make_loaded(family), tmp_path, **{"device": "cpu", "seed": 0, "draws": 50, "batch_size": 8, **changed})

    return make
