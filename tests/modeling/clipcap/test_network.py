"""ClipCap: what learns, what it is told by, its tokenizer, and folders of ours and of others."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from capfilt.config.architectures.clipcap import ClipCapArchitecture, ClipImage, GptConfig, MlpMapper, TransformerMapper
from capfilt.config.architectures.med import MedArchitecture
from capfilt.config.decoding import Greedy
from capfilt.config.find import bundled
from capfilt.errors import CheckpointError, ConfigError, ContractError
from capfilt.modeling.batch import Batch
from capfilt.modeling.build import build
from capfilt.modeling.clipcap import ClipCap
from capfilt.modeling.clipcap.batch import EmbeddedBatch
from capfilt.modeling.clipcap.build import assemble
from capfilt.modeling.clipcap.original import to_original
from capfilt.modeling.clipcap.tokenizer import GptTokenizer
from capfilt.modeling.clipcap.training import ClipCapTraining
from capfilt.modeling.families import load_network, save_network
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.modeling.weights import save_model

transformers = pytest.importorskip("transformers")
TEXTS = [f"a {size} {colour} {thing}." for size in ("big", "small") for colour in ("red", "blue") for thing in ("ball", "box")]
MAPPERS = {
    "mlp": MlpMapper(kind="mlp"),
    "transformer": TransformerMapper(kind="transformer", clip_length=3, layers=2, heads=4),
}


def small(mapper: str = "mlp", **changes: Any) -> ClipCapArchitecture:
    text = GptConfig(vocab_size=60, width=32, layers=2, heads=4, max_positions=48, dropout=0.1, end_id=3, init_std=0.1)
    fields: dict[str, Any] = {"kind": "clipcap", "embed_dim": 12, "prefix_length": 4, "max_text_length": 20} | changes
    return ClipCapArchitecture(**({"mapper": MAPPERS[mapper], "text": text} | fields))


def built(architecture: ClipCapArchitecture) -> ClipCap:
    return build(architecture).eval()


def embedded(pairs: int = 6) -> EmbeddedBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 60, (pairs, 7), generator=generator)
    mask = (torch.arange(7)[None] < torch.randint(3, 8, (pairs, 1), generator=generator)).long()
    return EmbeddedBatch(torch.randn(pairs, 12, generator=generator), ids * mask, mask)


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a byte-level BPE of its own, as transformers saves it."""
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("gpt2")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(TEXTS, vocab_size=290, special_tokens=["<|endoftext|>"], show_progress=False)
    size = bpe.get_vocab_size()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=size, n_positions=48, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, initializer_range=0.1
        )
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    bpe.save_model(str(folder))
    bpe.save(str(folder / "tokenizer.json"))
    return folder


# ── what learns ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
@pytest.mark.parametrize("learns", ["mapper", "mapper_and_text"])
def test_a_step_changes_what_learns_and_not_a_bit_of_the_rest(mapper: str, learns: str) -> None:
    image = ClipImage(kind="clip", size=16, patch=8, width=16, layers=1, heads=2, intermediate=16)
    model = built(small(mapper, learns=learns, image=image))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module = ClipCapTraining(model).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-2)
    module.losses(embedded())["lm"].backward()
    optimiser.step()
    in_optimiser = {id(p) for group in optimiser.param_groups for p in group["params"]}
    moves = ("mapper.", "text.") if learns == "mapper_and_text" else ("mapper.",)
    for name, parameter in model.named_parameters():
        expected = name.startswith(moves)
        assert (id(parameter) in in_optimiser) == expected, name
        assert (parameter.grad is not None) == expected, name
        assert torch.equal(parameter, before[name]) != expected, name
    assert {name.split(".")[0] for name in module.state_dict()} == {name[:-1] for name in moves}
    assert model.text.training == (learns == "mapper_and_text")  # a frozen GPT-2 drops nothing out
    assert not model.embedder.training  # type: ignore[union-attr]


def test_pictures_and_their_stored_embeddings_give_the_same_loss_and_captions() -> None:
    image = ClipImage(kind="clip", size=16, patch=8, width=16, layers=1, heads=2, intermediate=16)
    model = built(small(image=image))
    texts, pixels = embedded(), torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    stored = model.encode_image(pixels).detach()
    of_pictures = model.losses(Batch(pixels, texts.ids_BT, texts.mask_BT, torch.arange(6)))["lm"]
    of_embeddings = model.losses(EmbeddedBatch(stored, texts.ids_BT, texts.mask_BT))["lm"]
    assert torch.equal(of_pictures, of_embeddings)
    greedy = Greedy(max_length=9, min_length=0)
    assert torch.equal(model.generate(pixels, None, greedy).ids_BnL, model.generate(stored, None, greedy).ids_BnL)


def test_neither_prefix_nor_prompt_nor_padding_is_learnt() -> None:
    model = built(small())
    batch = embedded()
    labels = model.labels(batch.ids_BT, batch.mask_BT, prompt_length=2)
    assert labels[:, :2].eq(-100).all()
    assert torch.equal(labels[:, 2:] == -100, batch.mask_BT[:, 2:] == 0)
    log_p = model.lm_logits(batch.ids_BT, batch.mask_BT, batch.embed_BE).log_softmax(-1)
    scored = log_p[:, 3:-1].gather(2, batch.ids_BT[:, :, None])[:, :, 0]  # the prefix's last vector scores the first token
    kept = labels != -100
    expected = -scored[kept].mean()
    torch.testing.assert_close(model.losses(batch, prompt_length=2)["lm"], expected)
    other = EmbeddedBatch(batch.embed_BE, batch.ids_BT.masked_fill(batch.mask_BT == 0, 9), batch.mask_BT)
    torch.testing.assert_close(model.losses(other, prompt_length=2)["lm"], expected)


def test_the_length_of_an_embedding_counts_unless_it_is_normalised() -> None:
    embed = torch.randn(2, 12)
    plain, unit = built(small()), built(small(normalise=True))
    assert not torch.allclose(plain.prefix_embeddings(embed), plain.prefix_embeddings(3 * embed))
    torch.testing.assert_close(unit.prefix_embeddings(embed), unit.prefix_embeddings(3 * embed))


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_eight_pairs_are_learnt_by_heart(mapper: str, gpt2_folder: Path) -> None:
    loaded = assemble(small(mapper, learns="mapper_and_text"), text=gpt2_folder)
    ids, mask = (torch.from_numpy(x) for x in loaded.tokenizer.encode_batch(TEXTS, 20))
    embed = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    module = ClipCapTraining(loaded.model).eval()
    optimiser = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = module.losses(EmbeddedBatch(embed, ids, mask))["lm"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 < 2 < losses[0]
    made = loaded.model.generate(embed, None, Greedy(max_length=20, min_length=0)).ids_BnL[:, 0]
    assert [loaded.tokenizer.decode(row) for row in made] == TEXTS


# ── prefixes as words ───────────────────────────────────────────────────────────────────────────────────────


def test_a_prefix_is_read_back_as_its_nearest_words() -> None:
    model = built(small())
    words = model.text.get_input_embeddings().weight.detach()
    prefix = (words[[5, 9, 30, 41]] * torch.tensor([[0.1], [7.0], [1.0], [3.0]]))[None]
    ids, cosines = model.nearest_tokens(prefix, 3)
    assert ids.shape == cosines.shape == (1, 4, 3)
    assert ids[0, :, 0].tolist() == [5, 9, 30, 41]
    torch.testing.assert_close(cosines[0, :, 0], torch.ones(4))
    assert (cosines.diff(dim=-1) <= 0).all()


# ── tokenizer ───────────────────────────────────────────────────────────────────────────────────────────────


def test_texts_come_back_and_end_with_the_ending_token(gpt2_folder: Path) -> None:
    tokenizer = GptTokenizer.load(gpt2_folder)
    ids, mask = tokenizer.encode_batch([*TEXTS, "a ball"], 20)
    assert [tokenizer.decode(row) for row in ids] == [*TEXTS, "a ball"]
    assert all(row[own.sum() - 1] == tokenizer.end_id for row, own in zip(ids, mask, strict=True))
    short, _ = tokenizer.encode_batch(TEXTS, 3)
    assert short.shape == (8, 3)
    assert (short[:, 2] == tokenizer.end_id).all()
    assert tokenizer.encode_batch(TEXTS, 20, pad_to=25)[0].shape == (8, 25)


def test_a_full_stop_may_end_texts_and_is_seen(gpt2_folder: Path) -> None:
    stop = int(GptTokenizer.load(gpt2_folder).encode_prompt(".")[0])
    tokenizer = GptTokenizer.load(gpt2_folder, end_id=stop)
    ids, mask = tokenizer.encode_batch(["a red box.", "a ball"], 20)
    assert (ids == stop).sum(1).tolist() == [1, 1]
    assert [tokenizer.decode([*row, 5]) for row in ids] == ["a red box.", "a ball."]
    assert mask.sum() == (ids != tokenizer.pad_id).sum()


def test_a_prompt_is_the_head_of_the_texts_that_begin_with_it(gpt2_folder: Path) -> None:
    tokenizer = GptTokenizer.load(gpt2_folder)
    prompt = tokenizer.encode_prompt("a big ")
    ids, _ = tokenizer.encode_batch(["a big red ball."], 20)
    assert ids[0, : len(prompt)].tolist() == prompt.tolist()
    assert len(tokenizer.encode_prompt("")) == 0


def test_the_tokenizer_of_transformers_and_ours_agree(gpt2_folder: Path, tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt", "config.json"):
        (tmp_path / name).write_bytes((gpt2_folder / name).read_bytes())
    from_files, from_json = GptTokenizer.load(tmp_path), GptTokenizer.load(gpt2_folder)
    theirs = transformers.AutoTokenizer.from_pretrained(gpt2_folder)
    for text in (*TEXTS, " two  spaces", "ünïcode"):
        assert from_files.encode_prompt(text).tolist() == from_json.encode_prompt(text).tolist()
        assert from_json.encode_prompt(text).tolist() == theirs(text.rstrip(), add_special_tokens=False)["input_ids"]
    assert "".join(from_json.tokens()[i] for i in from_json.encode_prompt("a red box.")) == "a red box."


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_clipcap_is_assembled_of_a_gpt2_and_a_med_and_comes_back_from_its_folder(
    gpt2_folder: Path, tmp_path: Path, architecture: MedArchitecture
) -> None:
    words = Tokenizer.train(TEXTS, 40)
    med_architecture = architecture.model_copy(update={"text": architecture.text.model_copy(update={"vocab_size": len(words)})})
    med = build(med_architecture, seed=1).eval()
    save_model(tmp_path / "med", med, med_architecture, words)
    loaded = assemble(small(), text=gpt2_folder, image=tmp_path / "med")
    assert loaded.architecture.embed_dim == med_architecture.embed_dim
    assert loaded.architecture.text.vocab_size == len(loaded.tokenizer)
    pixels = torch.randn(3, 3, 16, 16)
    embed = loaded.model.encode_image(pixels)
    torch.testing.assert_close(embed, med.image_features(med.encode_image(pixels)))

    save_network(tmp_path / "saved", loaded)
    again = load_network(tmp_path / "saved")
    assert again.architecture == loaded.architecture
    assert torch.equal(again.model.encode_image(pixels), embed)
    greedy = Greedy(max_length=9, min_length=0)
    assert torch.equal(again.model.generate(embed, None, greedy).ids_BnL, loaded.model.generate(embed, None, greedy).ids_BnL)
    assert again.tokenizer.decode(again.tokenizer.encode_batch(TEXTS, 20)[0][0]) == TEXTS[0]
    save_network(tmp_path / "twice", again)
    assert (tmp_path / "twice/model.safetensors").read_bytes() == (tmp_path / "saved/model.safetensors").read_bytes()


def test_a_fresh_gpt2_takes_the_run_s_own_vocabulary(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, 60)
    text = GptConfig(vocabulary="trained", vocab_size=400, width=32, layers=1, heads=2, max_positions=48, end_id=0)
    loaded = assemble(small(text=text), text=None, tokenizer=tokenizer)
    assert (loaded.architecture.text.vocab_size, loaded.architecture.text.end_id) == (len(tokenizer), tokenizer.sep_id)
    save_network(tmp_path / "saved", loaded)
    assert isinstance(load_network(tmp_path / "saved").tokenizer, Tokenizer)
    with pytest.raises(ConfigError, match="tokenizer"):
        assemble(small(), text=None)


# ── what does not fit ───────────────────────────────────────────────────────────────────────────────────────


def test_tensors_that_do_not_fit_are_all_listed() -> None:
    state: dict[str, Tensor] = to_original(built(small("transformer")))
    state.pop("clip_project.transformer.layers.1.norm2.bias")
    state.pop("gpt.transformer.ln_f.weight")
    state["gpt.transformer.h.0.mlp.c_proj.bias"] = torch.zeros(5)
    state["clip_project.more"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as error:
        ClipCap.from_original(state, {"text": {"heads": 4}})
    for part in (
        "missing clip_project.transformer.layers.1.norm2.bias [32]",
        "missing gpt.transformer.ln_f.weight [32]",
        "misshapen gpt.transformer.h.0.mlp.c_proj.bias: expected [32], found [5]",
        "unexpected clip_project.more [2]",
    ):
        assert part in str(error.value)
    with pytest.raises(CheckpointError, match="number of heads"):
        ClipCap.from_original(to_original(built(small())))
    with pytest.raises(CheckpointError, match=r"so a gpt\.transformer\.wte\.weight of 2 axes, found none"):
        ClipCap.from_original({"clip_project.model.0.weight": torch.zeros(2, 2)})
    with pytest.raises(ConfigError, match="sizes"):
        ClipCap.from_original(to_original(built(small())), {"n_head": 4, "sizes": 3})


def test_a_gpt2_that_does_not_tie_its_vocabulary_keeps_both_matrices() -> None:
    state = to_original(built(small()))
    state["gpt.lm_head.weight"] = torch.randn(60, 32)
    model = ClipCap.from_original(state, {"n_head": 4})
    assert not model.config.text.tied_vocabulary
    assert all(torch.equal(tensor, state[name]) for name, tensor in to_original(model).items())


def test_what_cannot_be_asked_is_refused() -> None:
    model = built(small())
    with pytest.raises(CheckpointError, match="image side"):
        model.encode_image(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ContractError, match="embeds"):
        model.losses({"ids": torch.ones(1, 2, dtype=torch.long)})
    with pytest.raises(ConfigError, match="at most the network's 44"):
        model.generate(torch.zeros(1, 12), None, Greedy(max_length=45))
    with pytest.raises(ValidationError, match="max_text_length 45"):
        small(max_text_length=45)
    with pytest.raises(ValidationError, match=r"mapper\.heads"):
        ClipCapArchitecture.model_validate(small().model_dump() | {"mapper": {"kind": "transformer", "heads": 5}})
    with pytest.raises(ValidationError, match="end_id"):
        GptConfig(vocab_size=10, end_id=10)


def test_the_bundled_architectures_are_read_and_the_tiny_one_is_built() -> None:
    found = {
        path.stem: ClipCapArchitecture.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        for path in bundled("models").glob("clipcap_*.yaml")
    }
    assert set(found) == {"clipcap_tiny", "clipcap_mlp_gpt2", "clipcap_transformer_gpt2"}
    assert found["clipcap_mlp_gpt2"].learns == "mapper_and_text"
    assert found["clipcap_transformer_gpt2"].learns == "mapper"
    tiny = found["clipcap_tiny"]
    model = built(tiny)
    assert model.encode_image(torch.zeros(2, 3, 48, 48)).shape == (2, 64)
    assert sum(p.numel() for p in [*model.mapper.parameters(), *model.text.parameters()]) < 0.5e6
