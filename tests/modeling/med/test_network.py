from collections.abc import Callable

import pytest
import torch

from capfilt.config.architectures.med import MedArchitecture
from capfilt.errors import CheckpointError
from capfilt.modeling.batch import Batch
from capfilt.modeling.build import build
from capfilt.modeling.med import MED


@torch.inference_mode()
def test_features_have_unit_norm_and_equal_those_of_the_full_states(model: MED, make_batch: Callable[..., Batch]) -> None:
    model.eval()
    batch = make_batch()
    embeds = model.encode_image(batch.pixels_BCHW)
    text = model.text_features(batch.ids_BT, batch.mask_BT)
    assert torch.allclose(model.image_features(embeds).norm(dim=1), torch.ones(5))
    assert torch.allclose(text.norm(dim=1), torch.ones(5))
    whole = model.text_projection(model.encode_text(batch.ids_BT, batch.mask_BT)[:, 0])
    torch.testing.assert_close(text, torch.nn.functional.normalize(whole, dim=-1))
    torch.testing.assert_close(model.vision(batch.pixels_BCHW, first_only=True), embeds[:, :1])


@torch.inference_mode()
def test_texts_of_one_image_share_its_encoding_without_a_change_of_score(model: MED, make_batch: Callable[..., Batch]) -> None:
    model.eval()
    batch = make_batch(pairs=6)
    embeds = model.encode_image(batch.pixels_BCHW[:2])
    grouped = model.itm_logits(batch.ids_BT, batch.mask_BT, embeds)
    indexed = model.itm_logits(batch.ids_BT, batch.mask_BT, embeds, torch.tensor([0, 0, 0, 1, 1, 1]))
    repeated = model.itm_logits(batch.ids_BT, batch.mask_BT, embeds.repeat_interleave(3, 0))
    torch.testing.assert_close(grouped, repeated, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(indexed, repeated, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_first_token_belongs_to_the_role_not_to_the_caller(
    model: MED, architecture: MedArchitecture, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch()
    embeds = model.encode_image(batch.pixels_BCHW)
    other = batch.ids_BT.clone()
    other[:, 0] = 9
    assert torch.equal(model.itm_logits(other, batch.mask_BT, embeds), model.itm_logits(batch.ids_BT, batch.mask_BT, embeds))
    assert torch.equal(model.lm_logits(other, batch.mask_BT, embeds), model.lm_logits(batch.ids_BT, batch.mask_BT, embeds))
    by_cls = build(architecture.model_copy(update={"itm_position": "cls"}), seed=0)
    assert not torch.allclose(
        by_cls.itm_logits(batch.ids_BT, batch.mask_BT, embeds), model.itm_logits(batch.ids_BT, batch.mask_BT, embeds)
    )
    assert batch.ids_BT[:, 0].tolist() == [2] * 5


@torch.inference_mode()
def test_padding_changes_neither_features_nor_scores(model: MED, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    wide, mask = (torch.nn.functional.pad(x, (0, 6)) for x in (batch.ids_BT, batch.mask_BT))
    embeds = model.encode_image(batch.pixels_BCHW)
    kwargs = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(model.text_features(wide, mask), model.text_features(batch.ids_BT, batch.mask_BT), **kwargs)
    torch.testing.assert_close(
        model.itm_logits(wide, mask, embeds), model.itm_logits(batch.ids_BT, batch.mask_BT, embeds), **kwargs
    )


@torch.inference_mode()
def test_the_decoder_sees_no_later_token(model: MED, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    embeds = model.encode_image(batch.pixels_BCHW)
    full = torch.ones_like(batch.mask_BT)
    changed = batch.ids_BT.clone()
    changed[:, 5:] = 11
    a, b = model.lm_logits(batch.ids_BT, full, embeds), model.lm_logits(changed, full, embeds)
    torch.testing.assert_close(a[:, :5], b[:, :5])
    assert not torch.allclose(a[:, 5:], b[:, 5:])


@pytest.mark.parametrize("size", [16, 24])
@torch.inference_mode()
def test_another_image_size_gives_its_own_grid_of_tokens(model: MED, size: int) -> None:
    assert model.encode_image(torch.zeros(2, 3, size, size)).shape == (2, 1 + (size // 4) ** 2, 16)


def test_encoder_and_decoder_share_all_but_self_attention(model: MED) -> None:
    encoder = dict(model.text_encoder.named_parameters())
    for name, parameter in model.text_decoder.named_parameters():
        assert (encoder[name] is parameter) == ("self_block" not in name), name


def test_dropout_and_drop_path_act_in_training_alone(architecture: MedArchitecture, make_batch: Callable[..., Batch]) -> None:
    batch, tokens = make_batch(), torch.randn(8, 3, 16, generator=torch.Generator().manual_seed(0))
    sections = {
        "image": architecture.image.model_copy(update={"drop_path": 0.5}),
        "text": architecture.text.model_copy(update={"attention_dropout": 0.5}),
    }
    plain, other = build(architecture, seed=0), build(architecture.model_copy(update=sections), seed=0)
    for mode in (False, True):
        torch.manual_seed(0)
        plain.train(mode)
        other.train(mode)
        for a, b in (
            (plain.vision.blocks[1](tokens), other.vision.blocks[1](tokens)),
            (plain.encode_text(batch.ids_BT, batch.mask_BT), other.encode_text(batch.ids_BT, batch.mask_BT)),
        ):
            assert torch.allclose(a, b) != mode
    assert [block.drop_path.share for block in other.vision.blocks] == [0.0, 0.5]


def test_drop_path_leaves_the_mean_as_it_was() -> None:
    from capfilt.modeling.vision import DropPath

    torch.manual_seed(0)
    found = DropPath(0.25).train()(torch.ones(40_000, 1, 1))
    assert set(found.flatten().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert abs(float(found.mean()) - 1) < 0.02


def test_without_a_role_there_are_none_of_its_parts(architecture: MedArchitecture) -> None:
    whole = set(build(architecture, seed=0).state_dict())
    captioner, scorer = (build(architecture.model_copy(update={"roles": (role,)}), seed=0) for role in ("captioner", "filter"))
    assert not any(name.startswith(("text_encoder", "itm", "image_p", "text_p", "temp")) for name in captioner.state_dict())
    assert not any(name.startswith(("text_decoder", "head")) for name in scorer.state_dict())
    assert set(captioner.state_dict()) | set(scorer.state_dict()) == whole
    with pytest.raises(CheckpointError, match="found a filter only"):
        scorer.lm_logits(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3), torch.zeros(1, 2, 16))
    with pytest.raises(AttributeError, match="no attribute 'txt_encoder'"):
        captioner.txt_encoder  # noqa: B018


def test_losses_of_a_fresh_network_are_those_of_pretraining(model: MED, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    found = model.losses(batch)
    assert set(found) == {"itc", "itm", "lm"}
    assert not any(name.startswith(("_", "momentum", "queue")) for name in model.state_dict())
    assert model.objective.queue.image_ids_Q[:5].tolist() == batch.image_ids_B.tolist()
