"""A Q-Former that begins with the weights of a BERT (BLIP-2 section 3.1)."""

from pathlib import Path
from typing import Any

import pytest
import torch

from capfilt.config.architectures.blip2 import Blip2Architecture
from capfilt.errors import CheckpointError
from capfilt.modeling.blip2.bert import start_qformer
from capfilt.modeling.blip2.qformer import QFormer

transformers = pytest.importorskip("transformers")
WORDS = 8
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def qformer(**changes: Any) -> QFormer:
    text = {"vocab_size": WORDS + 2, "width": 16, "layers": 2, "heads": 2, "intermediate": 32, "max_positions": 20, "queries": 3}
    fields: dict[str, Any] = {
        "kind": "blip2",
        "image": {"size": 16, "patch": 4, "width": 12, "layers": 1, "heads": 2},
        "text": text | {"cls_id": 2, "sep_id": 3},
        "embed_dim": 8,
        "max_text_length": 12,
    }
    torch.manual_seed(0)
    return QFormer(Blip2Architecture.model_validate(fields | changes)).eval()


def bert(folder: Path, kind: str = "BertForPreTraining", **changes: Any) -> tuple[Any, str]:
    config = transformers.BertConfig(**{**SIZES, "vocab_size": WORDS, "max_position_embeddings": 24, **changes})
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
        # What LAVIS' Q-Former leaves out.
        getattr(model, "bert", model).embeddings.token_type_embeddings.weight.zero_()
    model.save_pretrained(folder)
    return model, str(folder)


def test_texts_are_read_as_by_the_bert_and_queries_have_its_feed_forwards(tmp_path: Path) -> None:
    theirs, folder = bert(tmp_path)
    model, before = qformer(), qformer().state_dict()
    start_qformer(model, folder)
    ids, mask = torch.tensor([[2, 5, 6, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1, 1, 0]])
    expected = theirs.bert(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(model.tower.read(ids, mask), expected[:, :1], atol=1e-5, rtol=0)
    assert torch.equal(model.head.dense.weight, theirs.cls.predictions.transform.dense.weight)
    assert torch.equal(model.head.vocabulary.bias[:-2], theirs.cls.predictions.bias)
    assert model.head.vocabulary.weight is model.tower.words.weight
    for own, layer in zip(model.tower.in_order(), theirs.bert.encoder.layer, strict=True):
        assert torch.equal(own.query_feed_forward.mlp.up.weight, layer.intermediate.dense.weight)
        assert torch.equal(own.query_feed_forward.norm.bias, layer.output.LayerNorm.bias)
    after = model.state_dict()
    kept = {name for name in after if torch.equal(after[name], before[name])}
    fresh = ("vision.", "bridge_norm.", "image_projection.", "text_projection.", "itm_head.", "temp", "tower.queries")
    assert kept == {name for name in after if name.startswith(fresh) or ".cross." in name}
    assert torch.equal(model.tower.words.weight[-2:], before["tower.words.weight"][-2:])


def test_a_bert_without_its_head_leaves_itgs_as_it_was_and_a_filter_needs_none(tmp_path: Path) -> None:
    _, bare = bert(tmp_path / "bare", "BertModel")
    model, before = qformer(), qformer().state_dict()
    start_qformer(model, bare)
    assert torch.equal(model.head.dense.weight, before["head.dense.weight"])
    theirs, folder = bert(tmp_path / "whole")
    model = qformer(roles=("filter",))
    start_qformer(model, folder)
    assert torch.equal(model.tower.words.weight[:-2], theirs.bert.embeddings.word_embeddings.weight)


def test_a_bert_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, folder = bert(tmp_path, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"unexpected encoder\.layer\.2"):
        start_qformer(qformer(), folder)
