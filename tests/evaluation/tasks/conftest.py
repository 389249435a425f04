"""Small task files, and networks of a few thousand parameters that can read their texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from capfilt.config.architectures import Architecture
from capfilt.config.architectures.blip2 import LanguageConfig
from capfilt.config.load import load_section
from capfilt.evaluation.tasks.base import Asked
from capfilt.miniweb.tasks import build_tasks
from capfilt.modeling.blip2.build import build_blip2
from capfilt.modeling.blip2.language import FrozenLanguage
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
    "clipcap": f"{{kind: clipcap, embed_dim: 16, image: {IMAGE.replace('KIND', 'kind: med')}, "
    "prefix_length: 2, mapper: {kind: mlp}, text: {vocabulary: trained, vocab_size: VOCAB, width: 32, heads: 2, layers: 1, "
    "max_positions: 60, dropout: 0, end_id: 3}, "
    "learns: mapper_and_text, max_text_length: 40}",
}
"""`make_loaded` knows two more, BLIP-2's second stage: blip2_gpt with a decoder-only language model, blip2_t5 with an
encoder-decoder."""


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
        told = ARCHITECTURES[family.split("_")[0]]
        told = told.replace("CLS", "pad_id: 0, cls_id: 2, sep_id: 3").replace("VOCAB", str(len(tokenizer)))
        architecture: Any = load_section(told, family, Architecture)
        if family.startswith("blip2_"):
            second = {"roles": (), "language": LanguageConfig()}
            architecture = architecture.model_copy(update=second)
            model = build_blip2(architecture, seed=0, language=_language(family, len(tokenizer)))
            return Loaded(model.eval(), architecture, tokenizer)
        return Loaded(build(architecture, seed=0).eval(), architecture, tokenizer)

    return make


def _language(family: str, vocabulary: int) -> FrozenLanguage:
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    ends = {"eos_token_id": 3, "pad_token_id": 0, "bos_token_id": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if family == "blip2_gpt":
            small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 60}
            return FrozenLanguage(GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **small, **ends)))
        sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 1, "num_heads": 2}
        return FrozenLanguage(
            T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, decoder_start_token_id=0, **sizes, **ends))
        )


@pytest.fixture
def make_asked(make_loaded: Callable[[str], Loaded], tmp_path: Path) -> Callable[..., Asked]:
    def make(family: str, **changed: Any) -> Asked:
        return Asked(make_loaded(family), tmp_path, **{"device": "cpu", "seed": 0, "draws": 50, "batch_size": 8, **changed})

    return make
