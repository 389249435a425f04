"""Captioners and filters of every family, built as a pipeline names them: what they score, and that neighbours change nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL.Image import Image
from pydantic import TypeAdapter

from capfilt.captioners import build_captioner
from capfilt.config.architectures.families import AnyArchitecture
from capfilt.config.round import CaptionConfig, FilterConfig
from capfilt.errors import CheckpointError
from capfilt.filters import build_filter
from capfilt.modeling.families import Loaded, build_network, save_network
from capfilt.modeling.tokenizer import Tokenizer

Paint = Callable[[int], Image]
IMAGE = "size: 16, patch: 4, width: 16, layers: 1, heads: 2, stem: conv, positions: sincos2d"
WORDS = "vocabulary: trained, width: 16, heads: 2"
TEXT = f"{WORDS}, layers: 2, intermediate: 32, max_positions: 24, cls_id: 2, sep_id: 3"
ARCHITECTURES = {
    "coca": f"kind: coca\nimage: {{kind: vit, {IMAGE}}}\npooler: {{queries: 3, width: 16, heads: 2}}\ntext: {{{TEXT}, SIZE}}\n"
    "multimodal: {layers: 1, heads: 2, intermediate: 32}\nembed_dim: 8\n",
    "blip2": f"kind: blip2\nimage: {{{IMAGE}}}\ntext: {{{TEXT}, queries: 3, SIZE}}\nembed_dim: 8\n",
    "clipcap": f"kind: clipcap\nembed_dim: 8\nimage: {{kind: med, {IMAGE}}}\nprefix_length: 2\nmapper: {{kind: mlp}}\n"
    f"text: {{{WORDS}, layers: 1, max_positions: 30, dropout: 0.0, end_id: 3, SIZE}}\n",
    "soho": "kind: soho\nimage: {size: 16, stem: small, block: basic, width: 8, blocks: [1, 1]}\ndictionary: {codes: 8}\n"
    f"text: {{{TEXT}, mask_id: 4, SIZE}}\n",
}
TEXTS = [["a red square", "two small blue circles on the left"], ["green"], ["a red square"]]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    tokenizer = Tokenizer.train(["a red square", "two small blue circles on the left", "green"], 60)

    def made(family: str) -> Path:
        content = yaml.safe_load(ARCHITECTURES[family].replace("SIZE", f"vocab_size: {len(tokenizer)}"))
        architecture: AnyArchitecture = TypeAdapter(AnyArchitecture).validate_python({**content, "max_text_length": 14})
        save_network(tmp_path / family, Loaded(build_network(architecture, seed=1).eval(), architecture, tokenizer))
        return tmp_path / family

    return made


@pytest.mark.parametrize("family", ["coca", "blip2", "clipcap"])
def test_a_captioner_writes_the_same_in_any_company(family: str, folder: Callable[[str], Path], paint: Paint) -> None:
    asked = {"captioner": {"kind": family, "checkpoint": str(folder(family))}, "batch_size": 2, "decode": {"kind": "nucleus"}}
    captioner = build_captioner(CaptionConfig.model_validate(asked), trained=None, device="cpu")
    seeds = [[1, 2], [3, 4], [5, 6]]
    together = captioner.caption([paint(i) for i in range(3)], seeds=seeds)
    alone = [captioner.caption([paint(i)], seeds=[seeds[i]])[0] for i in range(3)]
    assert [[one.text for one in own] for own in together] == [[one.text for one in own] for own in alone]
    assert np.allclose([[one.log_prob for one in own] for own in together], [[one.log_prob for one in own] for own in alone])
    assert all(np.isfinite(one.log_prob) for own in together for one in own)


@pytest.mark.parametrize(("family", "scores"), [("coca", {"itc"}), ("blip2", {"itm", "itc"}), ("soho", {"itm"})])
def test_a_filter_scores_the_same_in_any_company(
    family: str, scores: set[str], folder: Callable[[str], Path], paint: Paint
) -> None:
    asked = {"filter": {"kind": family, "checkpoint": str(folder(family))}, "batch_size": 2}
    scorer = build_filter(FilterConfig.model_validate(asked), trained=None, device="cpu")
    together = scorer.score([paint(i) for i in range(3)], TEXTS)
    assert {name for name in ("itm", "itc") if getattr(together, name) is not None} == scores
    assert np.allclose(np.linalg.norm(together.embedding, axis=1), 1, atol=1e-5)
    for i, texts in enumerate(TEXTS):
        for j, text in enumerate(texts):
            alone = scorer.score([paint(i)], [[text]])
            for name in scores:
                value = getattr(together, name)[i][j]
                assert value == pytest.approx(getattr(alone, name)[0][0], abs=1e-5)
                assert (0 if name == "itm" else -1) <= value <= 1
            assert np.allclose(alone.embedding[0], together.embedding[i], atol=1e-5)


def test_a_folder_of_another_family_is_refused(folder: Callable[[str], Path]) -> None:
    asked = {"filter": {"kind": "soho", "checkpoint": str(folder("coca"))}}
    with pytest.raises(CheckpointError, match="expected a model of kind soho, found a coca"):
        build_filter(FilterConfig.model_validate(asked), trained=None, device="cpu")


def test_a_family_without_the_role_is_refused(folder: Callable[[str], Path]) -> None:
    with pytest.raises(
        CheckpointError, match="expected a text encoder with ITC and ITM heads to match texts, found a captioner only"
    ):
        build_filter(FilterConfig.model_validate({"filter": {"kind": "trained"}}), trained=str(folder("clipcap")), device="cpu")
