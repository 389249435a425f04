from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from capfilt.config.architectures.med import MedArchitecture
from capfilt.errors import CheckpointError
from capfilt.modeling.batch import Batch
from capfilt.modeling.build import build
from capfilt.modeling.families import load_network
from capfilt.modeling.med import MED
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import read_weights, save_model


@pytest.fixture
def folder(tmp_path: Path, model: MED, architecture: MedArchitecture) -> Path:
    save_model(tmp_path / "model", model, architecture, Tokenizer.train(["a red star"], 30))
    return tmp_path / "model"


@torch.inference_mode()
def test_a_saved_model_loads_to_equal_outputs(folder: Path, model: MED, make_batch: Callable[..., Batch]) -> None:
    loaded = load_network(folder)
    batch = make_batch()
    for network in (model.eval(), loaded.model):
        embeds = network.encode_image(batch.pixels_BCHW)
        outputs = [
            network.itm_logits(batch.ids_BT, batch.mask_BT, embeds),
            network.lm_logits(batch.ids_BT, batch.mask_BT, embeds),
        ]
        if network is model:
            expected = outputs
    assert all(torch.equal(a, b) for a, b in zip(expected, outputs, strict=True))
    assert loaded.architecture == model.config
    assert not loaded.model.training


def test_shared_parameters_are_written_once_and_stay_shared(folder: Path) -> None:
    names = set(load_file(folder / "model.safetensors"))
    assert not any(name.startswith("text_decoder.") and "self_block" not in name for name in names)
    assert "head.vocabulary.weight" not in names
    loaded = load_network(folder).model
    assert loaded.text_decoder.embeddings is loaded.text_encoder.embeddings
    assert loaded.head.vocabulary.weight is loaded.text_encoder.embeddings.words.weight
    assert loaded.text_decoder.in_order()[0].cross is loaded.text_encoder.in_order()[0].cross


def test_halves_that_are_not_shared_come_back_apart(tmp_path: Path, architecture: MedArchitecture) -> None:
    apart = architecture.model_copy(
        update={"text": architecture.text.model_copy(update={"shared": False, "tied_vocabulary": False})}
    )
    model = build(apart, seed=1)
    save_model(tmp_path / "model", model, apart, Tokenizer.train(["a"], 30))
    loaded = load_network(tmp_path / "model").model
    assert loaded.text_decoder.embeddings is not loaded.text_encoder.embeddings
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_saving_again_gives_the_same_bytes_and_leaves_nothing_else(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded = load_network(folder)
    save_model(folder, loaded.model, loaded.architecture, loaded.tokenizer)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert set(before) == {"model.safetensors", "architecture.yaml", "tokenizer.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_missing_unexpected_and_misshapen_tensors_are_all_listed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["itm_head.bias"]
    tensors["surprise"] = torch.zeros(2)
    tensors["temp"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_network(folder)
    message = str(error.value)
    assert "missing itm_head.bias [2]" in message
    assert "unexpected surprise [2]" in message
    assert "misshapen temp: expected [], found [3]" in message


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found no model\.safetensors, architecture\.yaml"):
        load_network(tmp_path)


def test_a_damaged_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointError, match="copy the file again"):
        load_network(folder)


@pytest.mark.parametrize("content", [b"", b"junk\n", b"PK\x03\x04 half an archive", b"\x80\x02}q\x00.", b"h\x00.", bytes(100)])
def test_whatever_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x.pth: expected"):
        read_weights(tmp_path / "x.pth")
