"""Published checkpoints in, and out again: files of the original code, folders of transformers, hub names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from capfilt import load_model
from capfilt.cli import app
from capfilt.config.decoding import Beam
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.families import Loaded, load_network
from capfilt.modeling.med import MED
from capfilt.modeling.med.checkpoints.original import to_original
from capfilt.modeling.weights import save_model

transformers = pytest.importorskip("transformers")
SHAPE = (2, 2, 32)
KINDS = {"captioner": "BlipForConditionalGeneration", "filter": "BlipForImageTextRetrieval"}


@pytest.fixture(scope="module")
def folders(blip: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    return {role: blip.save(blip.make(role, SHAPE), root / role) for role in KINDS}


def outputs(model: MED, blip: Any) -> list[torch.Tensor]:
    pixels, ids, mask = blip.inputs(3, 9, 32)
    with torch.inference_mode():
        embeds = model.encode_image(pixels)
        found = [embeds]
        if "filter" in model.config.roles:
            found += [model.itm_logits(ids, mask, embeds), model.image_features(embeds), model.text_features(ids, mask)]
        if "captioner" in model.config.roles:
            found.append(model.lm_logits(ids, mask, embeds))
            found.append(model.generate(embeds, ids[0, :3], Beam(max_length=9, min_length=0)).ids_BnL)
    return found


def assert_equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> None:
    assert len(a) == len(b) > 1
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ── folders of transformers ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", KINDS)
def test_a_folder_of_transformers_loads_and_goes_out_again_with_equal_outputs(
    role: str, blip: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    loaded = load_network(folders[role])
    config = loaded.architecture
    assert config.roles == (role,)
    assert (config.image.size, config.image.layers, config.image.heads, config.text.heads) == (32, 2, 2, 4)
    assert (config.image.norm_eps, config.text.norm_eps, config.itm_position) == (1e-6, 1e-12, "cls")
    assert loaded.tokenizer.encode_batch(["w3 w4"], 8)[0].tolist() == [[1, 8, 9, 2]]

    told = CliRunner().invoke(app, ["export-model", str(folders[role]), str(tmp_path / "out")], catch_exceptions=False)
    assert told.stdout == f"{tmp_path / 'out'}: a {KINDS[role]}\n"
    theirs, report = getattr(transformers, KINDS[role]).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    pixels, ids, mask = blip.inputs(3, 9, 32, 58 if role == "captioner" else 1)
    with torch.inference_mode():
        found = theirs.eval()(pixel_values=pixels, input_ids=ids, attention_mask=mask)
        embeds = loaded.model.encode_image(pixels)
        if role == "captioner":
            torch.testing.assert_close(loaded.model.lm_logits(ids, mask, embeds), found.logits, atol=1e-5, rtol=1e-5)
        else:
            torch.testing.assert_close(loaded.model.itm_logits(ids, mask, embeds), found.itm_score, atol=1e-5, rtol=1e-5)
    again = load_network(tmp_path / "out")
    assert again.architecture == config
    assert_equal(outputs(again.model, blip), outputs(loaded.model, blip))


def test_the_processor_of_an_exported_folder_gives_our_ids_and_pixels(folders: dict[str, Path], tmp_path: Path) -> None:
    from PIL import Image

    from capfilt.modeling.med.checkpoints.export import export_transformers
    from capfilt.modeling.preprocess import preprocess

    loaded = load_network(folders["filter"])
    export_transformers(loaded, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w3, w4").input_ids == loaded.tokenizer.encode_batch(["w3, w4"], 8)[0].tolist()[0]
    assert tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [58, 59]
    image = Image.radial_gradient("L").resize((47, 61)).convert("RGB")
    kind = getattr(transformers, "BlipImageProcessorPil", transformers.BlipImageProcessor)
    theirs = kind.from_pretrained(tmp_path / "out")(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(preprocess([image], loaded.architecture), theirs.float(), atol=1e-5, rtol=1e-5)


def test_image_processor_settings_are_taken_or_refused(blip: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = blip.save(blip.make("filter", SHAPE), tmp_path / "model")
    settings = {"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_network(folder).architecture.image_mean == (0.5, 0.4, 0.3)
    for change, told in (({"resample": 2}, "found resample 2"), ({"size": {"height": 16, "width": 16}}, "found 16")):
        (folder / "preprocessor_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(CheckpointError, match=told):
            load_network(folder)


def test_a_torch_file_in_the_folder_does_as_well(blip: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = blip.save(blip.make("captioner", SHAPE), tmp_path / "model")
    expected = outputs(load_network(folder).model, blip)
    state = transformers.BlipForConditionalGeneration.from_pretrained(folder).state_dict()
    state["text_decoder.bert.embeddings.position_ids"] = torch.arange(32)[None]  # as files of transformers 4 have it
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert_equal(outputs(load_network(folder).model, blip), expected)


def test_a_folder_of_another_family_or_without_its_parts_is_refused(blip: Any, tmp_path: Path) -> None:
    folder = blip.save(blip.make("captioner", SHAPE), tmp_path / "model")
    (folder / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"expected tokenizer\.json or vocab\.txt"):
        load_network(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors or pytorch_model\.bin"):
        load_network(folder)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match=r"model_type blip.*'clip'"):
        load_network(folder)


# ── files of the original code ──────────────────────────────────────────────────────────────────────────────


def original_file(blip: Any, tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({"model": state, "epoch": 3}, tmp_path / "model_base.pth")
    return tmp_path / "model_base.pth"


def test_a_pretrained_file_of_the_original_code_has_both_roles(
    blip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from capfilt.modeling.med.checkpoints import original

    # Heads of 64 cannot be said of so narrow a network, so the file's settings are given here as `from_original` takes them.
    monkeypatch.setattr(original, "HEAD_WIDTH", 8)
    state = blip.pretraining(SHAPE)
    path = original_file(blip, tmp_path, state)
    with pytest.raises(CheckpointError, match=r"Put bert-base-uncased's vocab\.txt beside the checkpoint"):
        load_network(path)
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{i}" for i in range(53))]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    loaded = load_network(path)
    assert (loaded.architecture.roles, loaded.architecture.itm_position) == (("captioner", "filter"), "enc")
    assert (loaded.architecture.image.heads, loaded.architecture.text.heads) == (3, 4)
    assert (loaded.architecture.text.cls_id, loaded.architecture.text.sep_id) == (1, 2)
    assert loaded.architecture.text.shared
    assert loaded.model.text_decoder.embeddings is loaded.model.text_encoder.embeddings
    save_model(tmp_path / "own", *(getattr(loaded, name) for name in ("model", "architecture", "tokenizer")))
    assert_equal(outputs(load_network(tmp_path / "own").model, blip), outputs(loaded.model, blip))
    in_hand = load_model(path)
    assert in_hand.architecture == loaded.architecture


def test_an_original_state_dict_goes_out_as_it_came(blip: Any) -> None:
    state = blip.pretraining(SHAPE)
    back = to_original(MED.from_original({"model": {f"module.{name}": x for name, x in state.items()}}, blip.settings))
    unused = {name for name in state if name.startswith("text_encoder_m.") and ".crossattention." in name}
    assert set(back) == set(state) - unused
    assert all(torch.equal(back[name], state[name]) for name in back)


@pytest.mark.parametrize("name", ["blip.safetensors", "blip.pt"])
def test_a_file_of_any_kind_may_have_its_settings_beside_it(name: str, blip: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {key: tensor.clone().contiguous() for key, tensor in blip.pretraining(SHAPE).items()}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{i}" for i in range(53))]))
    with pytest.raises(CheckpointError, match="number of heads in the configuration"):
        load_network(tmp_path)
    (tmp_path / "architecture.yaml").write_text("kind: med\nimage: {heads: 3}\ntext: {heads: 4}\n")
    told = {"image": {"heads": 3}, "text": {"heads": 4, "pad_id": 0, "cls_id": 1, "sep_id": 2}}
    assert_equal(outputs(load_network(tmp_path).model, blip), outputs(MED.from_original(state, told), blip))


def test_both_roles_exported_one_by_one_equal_the_original(blip: Any, tmp_path: Path) -> None:
    from capfilt.modeling.med.checkpoints.export import export_transformers
    from capfilt.modeling.tokenizer import Tokenizer

    model = MED.from_original(blip.pretraining(SHAPE), blip.settings)
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{i}" for i in range(53))]
    loaded = Loaded(model, model.config, Tokenizer.from_tokens(tokens))
    with pytest.raises(ConfigError, match="--as captioner or --as filter"):
        export_transformers(loaded, tmp_path / "both")
    pixels, ids, mask = blip.inputs(3, 9, 32)
    with torch.inference_mode():
        embeds = model.encode_image(pixels)
        told = export_transformers(loaded, tmp_path / "filter", "filter")
        assert told.endswith("put [ENC] first: input_ids[:, 0] = 59")
        theirs = transformers.BlipForImageTextRetrieval.from_pretrained(tmp_path / "filter").eval()
        ids[:, 0] = 59
        expected = theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask).itm_score
        torch.testing.assert_close(model.itm_logits(ids, mask, embeds), expected, atol=1e-5, rtol=1e-5)
        export_transformers(loaded, tmp_path / "captioner", "captioner")
        writer = transformers.BlipForConditionalGeneration.from_pretrained(tmp_path / "captioner").eval()
        ids[:, 0] = 58
        expected = writer(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(model.lm_logits(ids, mask, embeds), expected, atol=1e-5, rtol=1e-5)
    assert load_network(tmp_path / "filter").architecture.itm_position == "enc"


@pytest.mark.parametrize("part", ["embeddings.LayerNorm.bias", "encoder.layer.1.crossattention.self.key.weight"])
def test_halves_that_are_not_shared_load_as_they_are(blip: Any, part: str) -> None:
    state = blip.pretraining(SHAPE)
    state[f"text_encoder.{part}"] += 0.5
    model = MED.from_original(state, blip.settings)
    assert not model.config.text.shared
    assert all(torch.equal(x, state[name]) for name, x in to_original(model).items())
    assert set(model.losses(dict(zip(("pixels", "ids", "mask"), blip.inputs(2, 6, 32), strict=True)))) == {"itc", "itm", "lm"}


def test_missing_unexpected_and_misshapen_tensors_are_all_listed(blip: Any) -> None:
    state = blip.pretraining(SHAPE)
    del state["itm_head.bias"]
    state["visual_encoder.surprise"] = torch.zeros(2)
    state["text_decoder.bert.encoder.layer.1.attention.self.key.weight"] = torch.zeros(32, 3)
    with pytest.raises(CheckpointError) as error:
        MED.from_original(state, blip.settings)
    told = str(error.value)
    assert "missing itm_head.bias" in told
    assert "unexpected visual_encoder.surprise [2]" in told
    assert "misshapen text_decoder.bert.encoder.layer.1.attention.self.key.weight: expected [32, 32], found [32, 3]" in told


@pytest.mark.parametrize("role", KINDS)
def test_what_a_checkpoint_cannot_do_is_said_instead_of_done_with_random_weights(
    blip: Any, folders: dict[str, Path], role: str
) -> None:
    from PIL import Image

    model = MED.from_original(blip.original(blip.make(role, SHAPE)), blip.settings)
    pixels, ids, mask = blip.inputs(2, 6, 32)
    embeds = model.encode_image(pixels)
    with pytest.raises(CheckpointError, match=f"found a {role} only"):
        model.lm_logits(ids, mask, embeds) if role == "filter" else model.itm_logits(ids, mask, embeds)
    in_hand = load_model(folders[role])
    picture = [Image.new("RGB", (9, 9))]
    with pytest.raises(CheckpointError, match=f"^{role}: .*found a {role} only. Name a"):
        in_hand.caption(picture) if role == "filter" else in_hand.match(picture, ["w1"])
    assert in_hand.caption(picture, prompt="w1 w2 ") if role == "captioner" else in_hand.match(picture, ["w1"]).shape == (1,)


def test_settings_may_come_in_any_words(blip: Any, tmp_path: Path) -> None:
    state = blip.pretraining(SHAPE)
    expected = MED.from_original(state, blip.settings)
    (tmp_path / "med.json").write_text(json.dumps({"num_attention_heads": 4, "cls_token_id": 1, "sep_token_id": 2}))
    (tmp_path / "own.yaml").write_text("image: {heads: 2}\ntext: {heads: 4, cls_id: 1, sep_id: 2}\n")
    for config in (
        expected.config,
        expected.config.model_dump(),
        tmp_path / "own.yaml",
        {"num_heads": 2, "med_config": str(tmp_path / "med.json"), "image_size": 32, "vit_grad_ckpt": False},
        {
            "vision_config": {"num_attention_heads": 2},
            "text_config": {"num_attention_heads": 4, "cls_token_id": 1, "sep_token_id": 2},
        },
    ):
        assert MED.from_original(state, config).config == expected.config
    with pytest.raises(CheckpointError, match=r"expected the image encoder's number of heads.*found none"):
        MED.from_original(state)
    with pytest.raises(ConfigError, match="haeds"):
        MED.from_original(state, {"image": {"heads": 2, "haeds": 2}, "text": blip.settings["text"]})


def test_without_settings_the_values_are_blips(blip: Any) -> None:
    text = {"hidden_size": 64, "num_attention_heads": 1, "vocab_size": 110, "bos_token_id": 108}
    theirs = blip.make("captioner", (1, 1, 16), text=text, image={"hidden_size": 128, "num_attention_heads": 2})
    model = MED.from_original(blip.original(theirs))
    pixels, ids, mask = blip.inputs(3, 9, 16, 108)
    with torch.inference_mode():
        expected = theirs(pixel_values=pixels, input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(model.lm_logits(ids, mask, model.encode_image(pixels)), expected, atol=1e-5, rtol=1e-5)
    assert (model.config.text.cls_id, model.config.text.sep_id, model.config.text.dropout) == (101, 102, 0.1)


@pytest.mark.parametrize("content", [b"no checkpoint", None])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    if content is None:
        torch.save({"model": {"weights": 3}}, tmp_path / "model.pth")
    else:
        (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pth: expected a (checkpoint of tensors|state dict)"):
        load_network(tmp_path / "model.pth")


# ── the hub ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hub_name_is_read_from_the_cache_and_else_says_what_to_give(
    blip: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"(?s)some/blip: .*hf download some/blip --local-dir FOLDER.*give its path"):
        load_network("some/blip")
    repository = tmp_path / "models--some--blip"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / "abc").symlink_to(folders["captioner"])
    assert_equal(outputs(load_network("some/blip").model, blip), outputs(load_network(folders["captioner"]).model, blip))


def test_a_path_that_is_not_there_is_no_hub_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a model folder, a checkpoint file or a hub name"):
        load_network(tmp_path / "nothing")
