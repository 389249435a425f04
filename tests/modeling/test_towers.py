"""A MED that begins with the weights of a ViT and a BERT."""

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertModel, DeiTConfig, DeiTModel, ViTConfig, ViTForImageClassification

from capfilt.config.architectures.med import MedArchitecture
from capfilt.errors import CheckpointError
from capfilt.modeling.build import build
from capfilt.modeling.med.checkpoints.towers import start_image, start_text, tokenizer_of

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "square"]


def architecture(**image) -> MedArchitecture:
    image = {"size": 16, "patch": 4, "width": 16, "layers": 2, "heads": 2, "mlp_ratio": 2, "norm_eps": 1e-12, **image}
    text = {"vocab_size": len(WORDS) + 2, "width": 16, "layers": 2, "heads": 2, "intermediate": 32, "max_positions": 20}
    return MedArchitecture.model_validate(
        {"kind": "med", "image": image, "text": text | {"cls_id": 2, "sep_id": 3}, "embed_dim": 8, "queue_size": 0,
         "max_text_length": 12}
    )  # fmt: skip


@pytest.fixture
def save(tmp_path):
    def make(model, name):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
        model.save_pretrained(tmp_path / name)
        (tmp_path / name / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        return model.eval(), str(tmp_path / name)

    return make


def test_the_image_encoder_computes_what_the_vit_does(save):
    theirs, folder = save(ViTForImageClassification(ViTConfig(**SIZES, image_size=16, patch_size=4)), "vit")
    model = build(architecture()).eval()
    start_image(model, folder)
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.encode_image(pixels), theirs.vit(pixels).last_hidden_state, atol=1e-5, rtol=0)


def test_of_a_distilled_deit_the_second_token_is_left_out_and_another_grid_is_interpolated(save):
    theirs, folder = save(DeiTModel(DeiTConfig(**SIZES, image_size=16, patch_size=4)), "deit")
    model = build(architecture(size=24)).eval()
    start_image(model, folder)
    positions = theirs.embeddings.position_embeddings
    assert torch.equal(model.vision.positions[:, 0], positions[:, 0])
    assert model.vision.positions.shape[1] == 37
    start_image(model := build(architecture()).eval(), folder)
    assert torch.equal(model.vision.positions[:, 1:], positions[:, 2:])


def test_the_text_encoder_computes_what_the_bert_does_and_the_decoder_has_its_self_attention(save):
    config = BertConfig(**SIZES, vocab_size=len(WORDS), max_position_embeddings=24)
    theirs, folder = save(BertForPreTraining(config), "bert")
    with torch.no_grad():  # what BLIP leaves out
        theirs.bert.embeddings.token_type_embeddings.weight.zero_()
    model = build(architecture()).eval()
    fresh = model.text_encoder.embeddings.words.weight[-2:].clone()
    start_text(model, folder)
    ids, mask = torch.tensor([[2, 5, 6, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1, 1, 0]])
    expected = theirs.bert(ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(model.encode_text(ids, mask)[:, :5], expected[:, :5], atol=1e-5, rtol=0)
    assert torch.equal(model.text_encoder.embeddings.words.weight[-2:], fresh)
    own, decoder = (tower.in_order()[1].self_block.attention.qkv.weight for tower in (model.text_encoder, model.text_decoder))
    assert own is not decoder
    assert torch.equal(own, decoder)
    assert torch.equal(model.head.dense.weight, theirs.cls.predictions.transform.dense.weight)
    assert torch.equal(model.head.vocabulary.bias[:-2], theirs.cls.predictions.bias)
    assert model.head.vocabulary.weight is model.text_encoder.embeddings.words.weight
    assert len(tokenizer_of(folder)) == len(WORDS) + 2


def test_a_bert_without_its_head_leaves_the_decoders_as_it_was(save):
    config = BertConfig(**SIZES, vocab_size=len(WORDS), max_position_embeddings=24)
    _, folder = save(BertModel(config), "bare")
    model = build(architecture())
    before = model.head.dense.weight.clone()
    start_text(model, folder)
    assert torch.equal(model.head.dense.weight, before)


def test_what_does_not_fit_is_listed(save):
    sizes = {**SIZES, "num_hidden_layers": 3, "image_size": 16, "patch_size": 8}
    _, folder = save(ViTForImageClassification(ViTConfig(**sizes)), "vit")
    with pytest.raises(CheckpointError, match=r"misshapen embeddings.patch_embeddings(?s:.*)unexpected encoder.layer.2"):
        start_image(build(architecture()), folder)
    with pytest.raises(CheckpointError, match="expected a transformers folder of bert, found 'vit'"):
        start_text(build(architecture()), folder)
    _, folder = save(BertModel(BertConfig(**SIZES, vocab_size=30)), "bert")
    with pytest.raises(CheckpointError, match="without \\[DEC\\] and \\[ENC\\], found 30 tokens"):
        start_text(build(architecture()), folder)
    with pytest.raises(CheckpointError, match="stem: patch"):
        start_image(build(architecture(stem="conv")), save(DeiTModel(DeiTConfig(**SIZES, patch_size=4, image_size=16)), "d")[1])
