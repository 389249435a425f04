"""Published checkpoints of every family: told apart by their tensors, loaded with what lies beside them, used in the line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from capfilt import load_model
from capfilt.captioners import Captioner, captioner_of
from capfilt.cli import export_model
from capfilt.config.decoding import Greedy
from capfilt.errors import CheckpointError, ConfigError
from capfilt.filters import filter_of
from capfilt.filters.network import NetworkFilter
from capfilt.modeling.blip2 import Blip2
from capfilt.modeling.blip2.names import qformer_names, without_biases
from capfilt.modeling.clipcap.image import centre_square
from capfilt.modeling.coca.tokenizer import ClipTokenizer
from capfilt.modeling.families import kind_of, load_network, save_network
from capfilt.modeling.inference import Inference
from capfilt.modeling.others import family_of
from capfilt.modeling.preprocess import normalise, to_uint8
from capfilt.modeling.published import to_theirs
from capfilt.modeling.weights import state_dict_in
from capfilt.run.steps import model_identity
from tests.parity import test_blip2_language as stage_2
from tests.parity import test_blip2_qformer as stage_1
from tests.parity import test_clipcap_transformers as clipcap
from tests.parity import test_soho_original as soho
from tests.parity.coca_reference import CONTEXT, END, START, VOCABULARY, Reference, Shape, random_state

transformers = pytest.importorskip("transformers")
Paint = Callable[[int], Image]
OPTIONS: dict[str, Any] = {"batch_size": 3, "dtype": "float32", "device": "cpu"}
WRITING: dict[str, Any] = {"prompt": "w3 ", "decode": Greedy(max_length=9, min_length=3)}
SHAPE = Shape()
LINE_BREAK = stage_2.TOKENS.index("w9")
"""The token of the tiny OPT whose place a line break takes."""
BERT = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def captioner_in(folder: Path) -> Captioner:
    return captioner_of(Inference.load(str(folder), **OPTIONS), **WRITING)


def filter_in(folder: Path) -> NetworkFilter:
    return filter_of(Inference.load(str(folder), **OPTIONS))


def words(tokens: list[str], folder: Path) -> None:
    backend = Backend(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    backend.pre_tokenizer = WhitespaceSplit()
    (folder / "tokenizer.json").write_text(backend.to_str())


def coca(folder: Path) -> Path:
    folder.mkdir()
    state = random_state(SHAPE)
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, folder / "epoch_latest.pt")
    say(folder, SHAPE.settings())
    words([*(f"w{i}" for i in range(VOCABULARY - 2)), "<|startoftext|>", "<|endoftext|>"], folder)
    return folder


def lavis(folder: Path) -> Path:
    folder.mkdir()
    torch.save({"model": stage_1.lavis_state(stage_1.retrieval())}, folder / "blip2_pretrained.pth")
    say(folder, {"image": {"heads": 2}, "text": {"heads": 4}})
    (folder / "vocab.txt").write_text("\n".join([*BERT, *(f"w{i}" for i in range(stage_1.VOCABULARY - 6))]))
    return folder


def retrieval(folder: Path) -> Path:
    stage_1.retrieval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*BERT, *(f"w{i}" for i in range(stage_1.VOCABULARY - 6))]))
    return folder


def generation(folder: Path) -> Path:
    return stage_2.save(stage_2.generation_network("opt"), folder)


def released_clipcap(folder: Path) -> Path:
    folder.mkdir()
    torch.save(clipcap.checkpoint(clipcap.SHAPES[0])[0], folder / "coco_weights.pt")
    say(folder, {"n_head": 4, "stop_token_id": clipcap.END})
    words([*(f"w{i}" for i in range(clipcap.VOCABULARY - 1)), "<|endoftext|>"], folder)
    side = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        projection_dim=clipcap.EMBED,
        vision_config={**side, "image_size": 32, "patch_size": 8},
        text_config={**side, "vocab_size": 20},
    )
    transformers.CLIPModel(config).save_pretrained(folder / "clip")
    return folder


def released_soho(folder: Path) -> Path:
    folder.mkdir()
    torch.save({"meta": {"epoch": 1}, "state_dict": soho.make()}, folder / "soho_res18.pth")
    say(folder, {**soho.TOLD, "image": {"size": 64}})
    (folder / "vocab.txt").write_text("\n".join([*BERT, *(f"w{i}" for i in range(soho.VOCABULARY - 5))]))
    return folder


def say(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "architecture.yaml").write_text(json.dumps(fields))


MAKERS = {
    "coca": coca, "lavis": lavis, "retrieval": retrieval, "generation": generation, "clipcap": released_clipcap,
    "soho": released_soho,
}  # fmt: skip
CAPTIONERS = ["coca", "lavis", "generation", "clipcap"]
SCORES = {"coca": {"itc"}, "lavis": {"itm", "itc"}, "retrieval": {"itm", "itc"}, "soho": {"itm"}}


@pytest.fixture(params=MAKERS)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_published_model_goes_out_as_a_folder_of_ours_and_is_equal(family: str, tmp_path: Path) -> None:
    loaded = load_network(MAKERS[family](tmp_path / family))
    save_network(tmp_path / "ours", loaded)
    again = load_network(tmp_path / "ours")
    assert again.architecture.kind == loaded.architecture.kind
    assert type(again.tokenizer) is type(loaded.tokenizer)
    theirs, ours = loaded.model.state_dict(), again.model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    texts = ["w3 w4 w5", "w6", "w7 [DEC] [ENC]"]
    for one, other in zip(loaded.tokenizer.encode_batch(texts, 9), again.tokenizer.encode_batch(texts, 9), strict=True):
        np.testing.assert_array_equal(one, other)
    assert loaded.tokenizer.encode_batch(texts, 9)[0].max() < vocabulary_of(loaded)


def vocabulary_of(loaded: Any) -> int:
    if loaded.architecture.kind == "blip2" and loaded.architecture.language is not None:
        return stage_2.V
    return int(loaded.architecture.text.vocab_size)


@pytest.mark.parametrize("family", CAPTIONERS)
def test_a_published_captioner_writes(family: str, tmp_path: Path, paint: Paint) -> None:
    captioner = captioner_in(MAKERS[family](tmp_path / family))
    found = captioner.caption([paint(i) for i in range(4)], seeds=[[i] for i in range(4)])
    assert [len(own) for own in found] == [1] * 4
    assert all(own[0].text and np.isfinite(own[0].log_prob) for own in found)


@pytest.mark.parametrize("family", SCORES)
def test_a_published_filter_scores_and_a_neighbour_changes_nothing(family: str, tmp_path: Path, paint: Paint) -> None:
    scorer = filter_in(MAKERS[family](tmp_path / family))
    texts = [["w3 w4 w5 w6 w7 w8 w9 w3 w4", "w6"], ["w7"], [], ["w8 [ENC] w3"]]
    found = scorer.score([paint(i) for i in range(4)], texts)
    assert {name for name in ("itm", "itc") if getattr(found, name) is not None} == SCORES[family]
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, atol=1e-5)
    alone = scorer.score([paint(0)], [["w6"]])
    for name in SCORES[family]:
        assert getattr(found, name)[0][1] == pytest.approx(getattr(alone, name)[0][0], abs=1e-5)


def test_a_released_cocas_filter_gives_open_clips_cosine(tmp_path: Path, paint: Paint) -> None:
    """Texts padded to their full length and pictures cut as open_clip does; the formulas are those of the parity test."""
    scorer = filter_in(coca(tmp_path / "coca"))
    reference = Reference(random_state(SHAPE), SHAPE)
    found = scorer.score([paint(i) for i in range(3)], [["w3 w4"], ["w5"], ["w6 w7 w8 w9"]])
    for i, words_of in enumerate(([3, 4], [5], [6, 7, 8, 9])):
        ids = torch.zeros(1, CONTEXT, dtype=torch.long)
        ids[0, : len(words_of) + 2] = torch.tensor([START, *words_of, END])
        picture = to_uint8([centre_square(paint(i), SHAPE.size)], SHAPE.size)
        features = reference.image(normalise(picture, scorer.network.architecture))[0]
        assert found.itc is not None
        assert found.itc[i][0] == pytest.approx(float((features * reference.text(ids)[0]).sum()), abs=1e-5)
        embedded = scorer.embed_texts([" ".join(f"w{word}" for word in words_of)])
        np.testing.assert_allclose(embedded[0], reference.text(ids)[0][0].numpy(), atol=1e-5)


def test_a_family_is_known_without_its_network_and_what_is_nobody_s_is_read_as_a_med(family: str, tmp_path: Path) -> None:
    folder = MAKERS[family](tmp_path / family)
    kind = load_network(folder).architecture.kind
    assert kind_of(folder) == kind
    save_network(tmp_path / "ours", load_network(folder))
    assert kind_of(tmp_path / "ours") == kind
    assert family_of(["visual_encoder.cls_token", "text_encoder.embeddings.LayerNorm.weight"]) == family_of([]) == "med"


@pytest.mark.parametrize(
    ("family", "gone", "told"),
    [
        ("coca", "tokenizer.json", "expected CLIP's tokenizer.json"),
        ("lavis", "vocab.txt", "expected a vocabulary"),
        ("clipcap", "tokenizer.json", "expected GPT-2's tokenizer.json"),
        ("soho", "vocab.txt", "expected a vocabulary"),
    ],
)
def test_what_must_lie_beside_a_file_is_named_where_it_is_missing(family: str, gone: str, told: str, tmp_path: Path) -> None:
    folder = MAKERS[family](tmp_path / family)
    (folder / gone).unlink()
    with pytest.raises(CheckpointError, match=told):
        load_network(folder)


def test_a_clipcap_without_clip_cannot_look_at_pictures(tmp_path: Path) -> None:
    folder = released_clipcap(tmp_path / "clipcap")
    shutil.rmtree(folder / "clip")
    assert load_network(folder).architecture.image is None
    with pytest.raises(ConfigError, match="expected a network that takes pictures"):
        captioner_in(folder)


@pytest.mark.parametrize("family", ["coca", "lavis", "clipcap", "soho"])
def test_tensors_that_do_not_fit_are_all_listed(family: str, tmp_path: Path) -> None:
    folder = MAKERS[family](tmp_path / family)
    (file,) = (path for path in folder.iterdir() if path.suffix in (".pt", ".pth"))
    state = state_dict_in(torch.load(file), str(file))
    missing = [name for name in state if name.endswith(LAST[family])]
    for name in missing:
        del state[name]
    torch.save(state | {"stranger.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError) as caught:
        load_network(folder)
    assert missing
    assert all(f"missing {name}" in str(caught.value) for name in missing)
    assert "unexpected stranger.weight [2]" in str(caught.value)


LAST = {"coca": "ln_final.weight", "lavis": "itm_head.weight", "clipcap": "ln_f.weight", "soho": "match_class.weight"}


def test_stage_2_of_lavis_needs_its_language_model_beside_it(tmp_path: Path, paint: Paint) -> None:
    folder = opt_of_lavis(tmp_path)
    (folder / "language").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="expected the language model of stage 2"):
        load_network(folder)
    (tmp_path / "elsewhere").rename(folder / "language")
    before = model_identity(str(folder))
    captions = captioner_in(folder).caption([paint(0)], seeds=[[1]])
    assert captions[0][0].text
    settings = folder / "language" / "generation_config.json"
    settings.write_text(settings.read_text() + " ")
    assert model_identity(str(folder)) != before


def opt_of_lavis(folder: Path, **told: Any) -> Path:
    """Its file, and beside it a language model whose tokenizer knows line breaks."""
    theirs, network = stage_2.loaded_pair("opt", folder)
    own = network.qformer.state_dict()
    for name in [name for name in own if name.startswith("vision.") and name.endswith("qkv.bias")]:
        own[name].chunk(3)[1].zero_()  # LAVIS' keys have no bias
    state = without_biases(to_theirs(own, qformer_names(network.config, "original")))
    state |= {f"opt_proj.{kind}": tensor for kind, tensor in network.projection.state_dict().items()}
    made = folder / "lavis"
    made.mkdir()
    torch.save({"model": state}, made / "opt.pth")
    say(made, {"image": {"heads": 2, "size": stage_2.SIZE}, "text": {"heads": 4, "norm_eps": 1e-12}, **told})
    stage_2.save(theirs.language_model, made / "language")
    file = made / "language" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["\n"] = content["model"]["vocab"].pop("w9")
    content["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
    file.write_text(json.dumps(content))
    return made


@pytest.mark.parametrize(("told", "end"), [({}, LINE_BREAK), ({"language": {"eos_id": 7}}, 7)])
def test_texts_of_lavis_opt_end_in_a_line_break_unless_the_architecture_says_otherwise(
    told: dict[str, Any], end: int, tmp_path: Path
) -> None:
    loaded = load_network(opt_of_lavis(tmp_path, **told))
    save_network(tmp_path / "ours", loaded)
    for one in (loaded, load_network(tmp_path / "ours")):
        assert isinstance(one.model, Blip2)
        assert one.model.language.eos_id == end
        assert one.tokenizer.encode_batch(["w3 w4"], 9)[0].tolist() == [[7, 8, end]]


def test_a_folder_of_stage_2_is_known_by_its_language_model_too(tmp_path: Path) -> None:
    save_network(tmp_path / "ours", load_network(generation(tmp_path / "theirs")))
    before = model_identity(str(tmp_path / "ours"))
    settings = tmp_path / "ours" / "language" / "config.json"
    settings.write_text(settings.read_text() + " ")
    assert model_identity(str(tmp_path / "ours")) != before


def test_capfilt_load_model_takes_them_and_says_what_they_cannot_do(tmp_path: Path, paint: Paint) -> None:
    contrast, writer = (load_model(MAKERS[name](tmp_path / name), batch_size=3) for name in ("coca", "clipcap"))
    images = [paint(0), paint(1)]
    assert np.abs(contrast.match(images, ["w3", "w4"])).max() <= 1
    cosines = (contrast.embed_images(images) * contrast.embed_texts(["w3", "w4"])).sum(1)
    np.testing.assert_allclose(contrast.match(images, ["w3", "w4"]), cosines, atol=1e-5)
    assert len(writer.caption(images, prompt="w3", decode=WRITING["decode"])) == 2
    with pytest.raises(CheckpointError, match="found a captioner only"):
        writer.match(images, ["w3", "w4"])


def test_clips_tokens_frame_a_text_and_entities_become_characters(tmp_path: Path) -> None:
    tokenizer = ClipTokenizer.load(coca(tmp_path / "coca"))
    ids, mask = tokenizer.encode_batch(["w3 &amp;amp; w4", "w5"], 4, pad_to=6)
    assert ids.tolist() == [[START, 3, 0, END, 0, 0], [START, 5, END, 0, 0, 0]]
    assert mask.sum(1).tolist() == [4, 3]
    assert tokenizer.encode_prompt("w3 ").tolist() == [START, 3]
    assert tokenizer.decode([START, 3, 4, END, 5]) == "w3 w4"


def test_export_model_says_that_transformers_has_no_such_class(tmp_path: Path) -> None:
    folder = coca(tmp_path / "coca")
    with pytest.raises(ConfigError, match="export-model: expected a MED, which transformers calls Blip, found a coca"):
        export_model(str(folder), tmp_path / "out", None, None)
    assert not (tmp_path / "out").exists()
