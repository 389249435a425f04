"""Every family through the same recipes: it learns, stops and goes on, keeps what is frozen, and refuses what it has not."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from capfilt.config.train import FinetuneCaptioner, FinetuneModel, Initial, Labelled, Losses, Matching, Mix, PretrainConfig
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.blip2.language import FrozenLanguage
from capfilt.modeling.blip2.qformer import QFormer
from capfilt.modeling.clipcap.network import ClipCap
from capfilt.modeling.families import load_network
from capfilt.modeling.med.network import MED
from capfilt.training import WebPairs, activations, finetune_captioner, finetune_filter, pretrain
from tests.tiny import ARCHITECTURES

LOSSES = {
    "med": Losses(itc=1, itm=1, lm=1),
    "coca": Losses(itc=1, lm=2),
    "blip2": Losses(itc=1, itm=1, lm=1),
    "clipcap": Losses(lm=1),
    "soho": Losses(mlm=1, mvm=1, itm=1),
    "blip2_lm": Losses(lm=1),
}
NEEDS_EYES = ("blip2", "clipcap")


class Stop(Exception):
    pass


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, pool_file: str, human_file: str) -> Make:
    """Pre-train a network of a family; for those that look with a MED's eyes, that first."""

    def made(family: str, out: str = "m", changes: dict[str, Any] | None = None, **options: Any) -> Path:
        yaml = tmp_path / f"{family}.yaml"
        own = ARCHITECTURES["blip2"] + "roles: []\nlanguage: {}\n" if family == "blip2_lm" else ARCHITECTURES[family]
        yaml.write_text(own + "max_text_length: 14\n" + ("" if family == "clipcap" else "init_std: 0.2\n"))
        if family in NEEDS_EYES and "init" not in (changes or {}):
            options.setdefault("image", made("med", "eyes", {"steps": 2}))
        config = PretrainConfig(
            **{
                "architecture": str(yaml),
                "mix": Mix(web=0.6, human=0.4),
                "human": human_file,
                "losses": LOSSES[family],
                "steps": 12,
                "batch_size": 5,
                "lr": 1e-3,
                "checkpoint_every_steps": 4,
                "threads": 1,
                **(changes or {}),
            }
        )
        web = WebPairs((pool_file,), "pool")
        pretrain(config, web=web, out=tmp_path / out, work=tmp_path / f"t-{out}", seed=1, device="cpu", **options)
        return tmp_path / out

    return made


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_network(folder).model.state_dict())


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_training_that_was_stopped_ends_with_the_same_files(family: str, make: Make, tmp_path: Path) -> None:
    whole = digests(make(family, "whole"))

    def stop(report: Any) -> None:
        if report.step == 10:
            raise Stop

    with pytest.raises(Stop):
        make(family, "cut", on_step=stop)
    assert list((tmp_path / "t-cut" / "checkpoint").iterdir())
    assert digests(make(family, "cut")) == whole
    log = [json.loads(line) for line in (tmp_path / "t-cut" / "log.jsonl").read_text().splitlines()]
    assert {"loss", *LOSSES[family].weights()} <= log[-1].keys()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_losses_fall_on_pairs_that_are_seen_again_and_again(family: str, make: Make, tmp_path: Path) -> None:
    changes = {"steps": 60, "lr": 3e-3, "batch_size": 10}
    if family == "soho":
        changes["losses"] = Losses(mlm=1, mvm=0.1, itm=1)
    make(family, changes=changes)
    log = [json.loads(line) for line in (tmp_path / "t-m" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]


@pytest.mark.parametrize(
    ("family", "role", "losses"),
    [
        ("coca", "captioner", Losses(lm=1)),
        ("coca", "filter", Losses(itc=1)),
        ("blip2", "captioner", Losses(lm=1)),
        ("blip2", "filter", Losses(itc=1, itm=1)),
        ("clipcap", "captioner", Losses(lm=1)),
        ("soho", "filter", Losses(itm=1)),
    ],
)
def test_a_role_is_fine_tuned_from_the_pretrained_model(
    family: str, role: str, losses: Losses, make: Make, tmp_path: Path, human_file: str
) -> None:
    start = make(family, changes={"steps": 2}, prompt="a picture of ")
    common = {"start": start, "seed": 1, "device": "cpu", "out": tmp_path / "tuned", "work": tmp_path / "t-tuned"}
    asked = {"losses": losses, "steps": 3, "batch_size": 4, "lr": 1e-3, "threads": 1}
    if role == "captioner":
        finetune_captioner(FinetuneCaptioner(**asked), human_file, prompt="a picture of ", **common)
    else:
        finetune_filter(FinetuneModel(**asked), human_file, **common)
    before, after = weights(start), weights(tmp_path / "tuned")
    assert before.keys() == after.keys()
    assert any(not after[name].equal(before[name]) for name in before)
    assert load_network(tmp_path / "tuned").architecture == load_network(start).architecture


def test_the_image_encoder_of_a_blip2_keeps_its_bits_and_is_in_no_optimiser(make: Make, tmp_path: Path, human_file: str) -> None:
    eyes = load_network(make("med", "eyes", {"steps": 2})).model
    assert isinstance(eyes, MED)

    def stop(report: Any) -> None:
        raise Stop

    with pytest.raises(Stop):
        make("blip2", image=tmp_path / "eyes", on_step=stop)
    (newest, *_) = sorted((tmp_path / "t-m" / "checkpoint").iterdir(), reverse=True)
    state = torch.load(newest, weights_only=True)
    model = load_network(make("blip2", image=tmp_path / "eyes")).model
    assert isinstance(model, QFormer)
    learnt = [name for name, parameter in model.named_parameters() if not name.startswith("vision.")]
    assert len(state["optimiser"]["state"]) == len(learnt)
    asked = FinetuneModel(losses=Losses(itc=1, itm=1), steps=3, batch_size=4, lr=1e-2, threads=1)
    finetune_filter(asked, human_file, start=tmp_path / "m", out=tmp_path / "f", work=tmp_path / "t-f", seed=1, device="cpu")
    theirs = {f"vision.{name}": value for name, value in eyes.vision.state_dict().items()}
    for folder in ("m", "f"):
        own = {name: value for name, value in weights(tmp_path / folder).items() if name.startswith("vision.")}
        assert own.keys() == theirs.keys()
        assert [name for name in own if not own[name].equal(theirs[name])] == []


def test_the_image_side_of_a_clipcap_keeps_its_bits(make: Make, tmp_path: Path) -> None:
    eyes = load_network(make("med", "eyes", {"steps": 2})).model
    model = load_network(make("clipcap", image=tmp_path / "eyes")).model
    assert isinstance(eyes, MED)
    assert isinstance(model, ClipCap)
    assert model.embedder is not None
    own = model.embedder.vision.state_dict()
    assert [name for name, value in eyes.vision.state_dict().items() if not value.equal(own[name])] == []
    assert model.embedder.image_projection.weight.equal(eyes.image_projection.weight)


def test_labelled_pictures_have_their_share_of_a_batch_and_their_names_are_learnt(
    make: Make, tmp_path: Path, picture: Callable[[int], bytes]
) -> None:
    rows = {"image": [picture(200 + i) for i in range(4)], "class": [0, 1, 1, 0]}
    pq.write_table(pa.table(rows), tmp_path / "labelled.parquet")
    labelled = Labelled(path=str(tmp_path / "labelled.parquet"), column="class", names=["zebra", "quagga"])
    mix = Mix(web=0.4, human=0.4, labelled=0.2)
    tokenizer = load_network(make("coca", changes={"mix": mix, "labelled": labelled, "steps": 2})).tokenizer
    for text in ("zebra", "quagga"):
        ids, _ = tokenizer.encode_batch([text], 10)
        assert tokenizer.decode(ids[0]) == text
    assert digests(make("coca", "n", {"steps": 2})) != digests(tmp_path / "m")


@pytest.mark.parametrize(
    ("family", "losses", "found"),
    [
        ("coca", Losses(itc=1, itm=1), "expected some of itc, lm, which a CoCa learns from, found itm"),
        ("soho", Losses(lm=1), "expected some of mlm, mvm, itm, which a SOHO learns from, found lm"),
        ("clipcap", Losses(lm=1, itc=1), "expected some of lm, which a ClipCap learns from, found itc"),
        ("med", Losses(mvm=1), "expected some of itc, itm, lm, which a MED learns from, found mvm"),
    ],
)
def test_a_loss_that_a_family_has_not_is_refused(family: str, losses: Losses, found: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=f"pretrain.losses: {found}"):
        make(family, changes={"losses": losses})


def test_a_way_of_matching_is_refused_where_no_soho_learns(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.matching: expected null for a BLIP-2"):
        make("blip2", changes={"matching": Matching(pairs="both")})


@pytest.mark.parametrize("negatives", ["random", "near"])
def test_a_soho_learns_from_pairs_of_both_kinds(negatives: str, make: Make, tmp_path: Path) -> None:
    start = make("soho", changes={"matching": {"pairs": "both", "negatives": negatives}})
    log = [json.loads(line) for line in (tmp_path / "t-m" / "log.jsonl").read_text().splitlines()]
    assert {"mlm", "mvm", "itm"} <= log[-1].keys()
    assert load_network(start).architecture.kind == "soho"


@pytest.mark.parametrize("family", NEEDS_EYES)
def test_a_family_that_looks_with_anothers_eyes_wants_them(family: str, make: Make) -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.init\.image: architecture .* found null"):
        make(family, changes={"init": Initial()})


def test_eyes_of_the_wrong_kind_are_refused(make: Make) -> None:
    with pytest.raises(CheckpointError, match=r"pretrain\.init\.image: expected a MED, found a coca"):
        make("blip2", image=make("coca", "c", {"steps": 1}))


def test_a_model_cannot_take_a_role_it_has_not(make: Make, tmp_path: Path, human_file: str) -> None:
    start = make("soho", changes={"steps": 1})
    asked = FinetuneCaptioner(losses=Losses(lm=1), steps=1, batch_size=2, lr=1e-3)
    where = {"out": tmp_path / "c", "work": tmp_path / "t-c"}
    with pytest.raises(CheckpointError, match="expected a text decoder to write captions, found a filter only"):
        finetune_captioner(asked, human_file, start=start, seed=1, device="cpu", prompt="", **where)


def test_parts_and_workers_are_refused_where_a_family_learns_from_whole_batches_only(make: Make) -> None:
    with pytest.raises(ConfigError, match="accumulate_steps 5, workers 1: expected 1 of each for CocaTraining"):
        make("coca", changes={"accumulate_steps": 5})


@pytest.mark.parametrize("family", ["coca", "blip2", "clipcap", "soho"])
def test_kept_and_recomputed_activations_give_the_same_weights(family: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def spied(forward: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(forward)
        return torch.utils.checkpoint.checkpoint(forward, *args, **kwargs)

    monkeypatch.setattr(activations, "checkpoint", spied)
    kept = weights(make(family, "kept", {"steps": 2}))
    assert calls == []
    again = weights(make(family, "again", {"steps": 2, "checkpoint_activations": True}))
    assert len(calls) >= 2
    assert all(np.allclose(kept[name], again[name], atol=1e-6) for name in kept)


def test_a_captioner_learns_from_stored_embeddings_of_one_source(make: Make, tmp_path: Path) -> None:
    from capfilt.config.train import Embeddings

    start = make("clipcap", changes={"steps": 2})
    rng = np.random.default_rng(0)
    texts = [f"a tiny square {i % 3}" for i in range(12)]
    table = {"embedding": rng.normal(size=(12, 8)).tolist(), "text": texts, "source": ["shop", "news"] * 6}
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    stored = Embeddings(
        paths=[str(tmp_path / "table*.parquet")], text="text", where={"source": "shop"}, image=str(tmp_path / "eyes")
    )
    asked = {"losses": Losses(lm=1), "steps": 4, "batch_size": 4, "lr": 1e-3, "threads": 1, "embeddings": stored}
    where = {"out": tmp_path / "c", "work": tmp_path / "t-c", "seed": 1, "device": "cpu", "prompt": ""}
    finetune_captioner(FinetuneCaptioner(**asked), None, start=start, **where)
    before, after = weights(start), weights(tmp_path / "c")
    changed = {name.split(".")[0] for name in before if not after[name].equal(before[name])}
    assert changed == {"mapper", "text"}
    with pytest.raises(ConfigError, match="expected a ClipCap to start from, found a med"):
        finetune_captioner(FinetuneCaptioner(**asked), None, start=tmp_path / "eyes", **where | {"out": tmp_path / "d"})


@pytest.mark.parametrize("kind", ["gpt2", "t5", "clipcap", "clipcap_of_gpt2"])
def test_stage_2_of_blip2_learns_before_a_frozen_language_model_and_captions(
    kind: str, make: Make, tmp_path: Path, human_file: str, picture: Callable[[int], bytes]
) -> None:
    import io

    from PIL import Image

    from capfilt.captioners import build_captioner
    from capfilt.config.round import CaptionConfig
    from capfilt.modeling.blip2.network import Blip2

    stage_1 = make("blip2", "stage_1", {"steps": 2})
    words = tmp_path / "words"
    if kind == "clipcap":
        make("clipcap", "words", {"steps": 2}, image=tmp_path / "eyes")
    elif kind == "clipcap_of_gpt2":
        init = Initial(text=str(language_model(tmp_path, "gpt2")))
        make("clipcap", "words", {"steps": 2, "init": init}, image=tmp_path / "eyes")
    else:
        words = language_model(tmp_path, kind)
    start = make("blip2_lm", "stage_2", {"steps": 3}, image=stage_1, text=words)
    asked = FinetuneCaptioner(losses=Losses(lm=1), steps=3, batch_size=4, lr=1e-2, threads=1)
    where = {"out": tmp_path / "c", "work": tmp_path / "t-c", "seed": 1, "device": "cpu", "prompt": "a picture of "}
    finetune_captioner(asked, human_file, start=start, **where)
    before, after = load_network(start), load_network(tmp_path / "c")
    assert isinstance(before.model, Blip2)
    assert isinstance(after.model, Blip2)
    frozen, kept = before.model.language.model.state_dict(), after.model.language.model.state_dict()
    assert [name for name in frozen if not frozen[name].equal(kept[name])] == []
    changed = {
        name.split(".")[0] for name, value in after.model.state_dict().items() if not value.equal(before.model.state_dict()[name])
    }
    assert changed == {"qformer", "projection"}
    assert not any("language" in name for name, _ in after.model.named_parameters())
    config = {"captioner": {"kind": "blip2", "checkpoint": str(tmp_path / "c")}, "decode": {"kind": "greedy", "max_length": 12}}
    captioner = build_captioner(CaptionConfig.model_validate(config), trained=None, device="cpu")
    ((caption,),) = captioner.caption([Image.open(io.BytesIO(picture(1))).convert("RGB")], seeds=[[1]])
    assert np.isfinite(caption.log_prob)


def test_an_encoder_reads_in_captioning_what_it_reads_in_writing_and_the_whole_caption_is_learnt(
    make: Make, tmp_path: Path, human_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = language_model(tmp_path, "t5")
    start = make("blip2_lm", "stage_2", {"steps": 1}, image=make("blip2", "stage_1", {"steps": 1}), text=words)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    logits = FrozenLanguage.suffix_logits

    def spied(self: FrozenLanguage, soft: Any, read: Any, read_mask: Any, ids: torch.Tensor, mask: Any) -> torch.Tensor:
        seen.append((read, ids))
        return logits(self, soft, read, read_mask, ids, mask)

    monkeypatch.setattr(FrozenLanguage, "suffix_logits", spied)
    asked = FinetuneCaptioner(losses=Losses(lm=1), steps=1, batch_size=4, lr=1e-3, threads=1)
    tokenizer = load_network(start).tokenizer
    texts = tokenizer.encode_batch([text for i in range(5) for text in (f"a square {i}", f"one small thing {i}")], 14)[0].tolist()
    for prompt in ("a picture of ", ""):
        where = {"out": tmp_path / f"c{len(prompt)}", "work": tmp_path / "t-c", "seed": 1, "device": "cpu", "prompt": prompt}
        finetune_captioner(asked, human_file, start=start, **where)
        read_BP, learnt_BT = seen.pop()
        assert read_BP.tolist() == [tokenizer.encode_prompt(prompt).tolist()] * 4
        assert all(ids in [text[: len(ids)] for text in texts] for ids in learnt_BT.tolist())


def test_a_prompt_leaves_a_language_models_text_its_positions(
    make: Make, tmp_path: Path, picture: Callable[[int], bytes], write_human: Callable[..., str]
) -> None:
    words = language_model(tmp_path, "gpt2", positions=18)  # 3 queries, 14 tokens, one of a prompt
    start = make("blip2_lm", "stage_2", {"steps": 1}, image=make("blip2", "stage_1", {"steps": 1}), text=words)
    rows = [{"key": f"k{i}", "image": picture(i), "captions": ["a small red square of one thing " * 3]} for i in range(4)]
    asked = FinetuneCaptioner(losses=Losses(lm=1), steps=1, batch_size=4, lr=1e-3, threads=1)
    where = {"out": tmp_path / "c", "work": tmp_path / "t-c", "seed": 1, "device": "cpu", "prompt": "a tiny picture of "}
    finetune_captioner(asked, write_human(rows, "long.parquet"), start=start, **where)
    assert (tmp_path / "c").is_dir()


def test_a_stage_1_begins_with_the_bert_that_init_text_names(make: Make, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "square"]
    theirs = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, vocab_size=len(tokens), max_position_embeddings=24))
    theirs.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(tokens))
    changes = {"init": Initial(text=str(tmp_path / "bert")), "steps": 1, "lr": 1e-9}
    loaded = load_network(make("blip2", changes=changes, image=make("med", "eyes", {"steps": 2})))
    assert loaded.tokenizer.tokens() == [*tokens, "[DEC]", "[ENC]"]
    words = loaded.model.state_dict()["tower.words.weight"][: len(tokens)]
    torch.testing.assert_close(words, theirs.bert.embeddings.word_embeddings.weight, atol=1e-6, rtol=0)


def language_model(folder: Path, kind: str, positions: int = 40) -> Path:
    """A tiny one of transformers with a tokenizer."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "</s>", "<unk>", "a", "square", "picture", "of", "red", "one", "small", "thing", "tiny"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if kind == "t5":
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder / kind)
    ids = {"vocab_size": len(words), "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    if kind == "gpt2":
        sizes = {"n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": positions}
        model: Any = transformers.GPT2LMHeadModel(transformers.GPT2Config(**ids, **sizes, bos_token_id=1))
    else:
        sizes = {"d_model": 12, "d_kv": 6, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**ids, **sizes, decoder_start_token_id=0))
    model.save_pretrained(folder / kind)
    return folder / kind
