import hashlib
import json

import pytest
import torch

from capfilt.config.train import Losses, Mix, OptimConfig, PretrainConfig
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.families import load_network
from capfilt.modeling.tokenizer import SPECIALS
from capfilt.training import WebPairs, finetune_captioner, finetune_filter, pretrain


class Stop(Exception):
    pass


@pytest.fixture
def run(tmp_path, pool_file, human_file, architecture_file):
    def make(out="m", work="t", changes=None, **options):
        config = PretrainConfig(
            **{
                "architecture": str(architecture_file),
                "mix": Mix(web=0.6, human=0.4),
                "human": human_file,
                "losses": Losses(itc=1, itm=1, lm=1),
                "steps": 12,
                "batch_size": 5,
                "lr": 1e-3,
                "checkpoint_every_steps": 4,
                "threads": 1,
                **(changes or {}),
            }
        )
        web = WebPairs((pool_file,), "pool")
        pretrain(config, web=web, out=tmp_path / out, work=tmp_path / work, seed=1, device="cpu", **options)
        return tmp_path / out

    return make


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_pretraining_that_was_stopped_ends_with_the_same_files(run, tmp_path):
    whole = digests(run("whole", "t1"))

    def stop(report):
        if report.step == 10:
            raise Stop

    with pytest.raises(Stop):
        run("cut", "t2", on_step=stop)
    assert not (tmp_path / "cut").exists()
    assert (tmp_path / "t2" / "checkpoint").is_dir()
    assert digests(run("cut", "t2")) == whole
    assert not (tmp_path / "t2" / "checkpoint").exists()
    assert [json.loads(line)["step"] for line in (tmp_path / "t2" / "log.jsonl").read_text().splitlines()] == [10, 12]


def test_a_checkpoint_of_other_settings_is_not_continued(run, tmp_path):
    def stop(report):
        raise Stop

    with pytest.raises(Stop):
        run("m", "t", on_step=stop)
    again = digests(run("m", "t", {"lr": 2e-3}))
    assert again == digests(run("n", "u", {"lr": 2e-3}))
    assert again != digests(run("o", "v"))


def test_a_model_that_is_there_is_left_alone(run, tmp_path):
    (tmp_path / "m").mkdir()
    assert list(run("m").iterdir()) == []


def test_the_vocabulary_is_learnt_from_web_human_and_prompt(run):
    tokenizer = load_network(run(prompt="a picture of ")).tokenizer
    for text in ("striped", "thing", "picture"):
        assert tokenizer.decode(tokenizer.encode_batch([text], 10)[0][0]) == text


def test_without_web_pairs_the_web_is_not_read(run):
    assert load_network(run(changes={"mix": Mix(web=0, human=1), "steps": 1})).architecture.image.size == 16


def test_captioner_and_filter_go_on_from_the_pretrained_model(run, tmp_path, human_file):
    start = run(changes={"steps": 2}, prompt="a picture of ")
    asked = OptimConfig(losses=Losses(lm=1), steps=3, batch_size=4, lr=1e-3, threads=1)
    common = {"start": start, "seed": 1, "device": "cpu"}
    finetune_captioner(asked, human_file, None, out=tmp_path / "c", work=tmp_path / "tc", prompt="a picture of ", **common)
    asked = asked.model_copy(update={"losses": Losses(itc=1, itm=1)})
    finetune_filter(asked, human_file, 24, out=tmp_path / "f", work=tmp_path / "tf", **common)
    pretrained, captioner, scorer = load_network(start), load_network(tmp_path / "c"), load_network(tmp_path / "f")
    assert captioner.architecture == pretrained.architecture
    assert scorer.architecture.image.size == 24
    names = {"head.vocabulary.bias": captioner, "itm_head.weight": scorer}
    for name, changed in names.items():
        before = dict(pretrained.model.named_parameters())[name]
        assert not dict(changed.model.named_parameters())[name].equal(before)
    assert dict(scorer.model.named_parameters())["vision.positions"].shape[1] == 1 + (24 // 4) ** 2
    assert {"lm", "loss"} <= json.loads((tmp_path / "tc" / "log.jsonl").read_text()).keys()


def test_with_a_shared_trunk_both_keep_the_image_encoder_to_the_bit_and_learn_the_rest(run, tmp_path, human_file):
    start = run()
    options = {"human": human_file, "start": start, "seed": 1, "device": "cpu", "trunk": "shared"}
    asked = {"steps": 4, "batch_size": 4, "lr": 1e-2, "threads": 1, "checkpoint_every_steps": 2}
    finetune_captioner(
        OptimConfig(losses=Losses(lm=1), **asked), out=tmp_path / "c", work=tmp_path / "cw", prompt="a square ", **options
    )
    finetune_filter(
        OptimConfig(losses=Losses(itc=1, itm=1), checkpoint_activations=True, **asked),
        out=tmp_path / "f",
        work=tmp_path / "fw",
        **options,
    )
    before = load_network(start).model.state_dict()
    for folder, learns in (("c", "head.dense.weight"), ("f", "itm_head.weight")):
        after = load_network(tmp_path / folder).model.state_dict()
        trunk = [name for name in before if name.startswith("vision.")]
        assert any("running_mean" in name for name in trunk)
        assert [name for name in trunk if not torch.equal(before[name], after[name])] == []
        assert not torch.equal(before[learns], after[learns])


def test_a_batch_that_workers_and_parts_do_not_divide_is_refused_before_any_work(run, tmp_path):
    with pytest.raises(ConfigError, match="workers x accumulate_steps, 2 x 1, found 5"):
        run(workers=2)
    with pytest.raises(ConfigError, match="workers x accumulate_steps, 1 x 2, found 5"):
        run(changes={"accumulate_steps": 2})
    assert not (tmp_path / "t").exists()


def test_an_architecture_for_berts_vocabulary_wants_one(run, tmp_path, architecture_file):
    architecture_file.write_text(architecture_file.read_text().replace("vocabulary: trained", "vocabulary: bert"))
    with pytest.raises(ConfigError, match=r"pretrain\.vocabulary: .* found null"):
        run()
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    with pytest.raises(ConfigError, match="expects 80 tokens"):
        run(changes={"vocabulary": str(vocabulary)})


def test_a_pretraining_begins_with_a_bert_and_its_vocabulary(run, tmp_path, architecture_file):
    from transformers import BertConfig, BertModel

    words = [*SPECIALS, "a", "red", "green", "square"]
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    bert = BertModel(BertConfig(**sizes, vocab_size=len(words), max_position_embeddings=30))
    bert.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words) + "\n")
    made = load_network(run(changes={"init": {"image": None, "text": str(tmp_path / "bert")}, "steps": 1, "lr": 1e-9}))
    assert made.tokenizer.tokens() == [*words, "[DEC]", "[ENC]"]
    assert torch.allclose(made.model.text_encoder.embeddings.words.weight[:-2], bert.embeddings.word_embeddings.weight, atol=1e-6)
    with pytest.raises(CheckpointError, match="expected a transformers folder of vit or deit"):
        run("n", "u", changes={"init": {"image": str(tmp_path / "bert"), "text": None}})
