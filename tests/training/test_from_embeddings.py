"""A ClipCap trained from a table of embeddings and texts, without a picture."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from capfilt.config.architectures.clipcap import ClipCapArchitecture, GptConfig, MlpMapper
from capfilt.config.decoding import Greedy
from capfilt.config.train import Losses, OptimConfig
from capfilt.errors import ConfigError
from capfilt.modeling.clipcap.build import assemble
from capfilt.modeling.families import Loaded, load_network
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.training.embeddings import EmbeddingPairs, read_embeddings
from capfilt.training.from_embeddings import EmbeddedBatches, mean_loss, train_on_embeddings
from capfilt.training.prefix_lengths import compare_prefix_lengths

TEXTS = [f"a {size} {colour} {thing}" for size in ("big", "small") for colour in ("red", "blue") for thing in ("ball", "box")]
DIM = 6


def start(prefix_length: int = 3, learns: str = "mapper_and_text") -> Loaded:
    return made(
        ClipCapArchitecture.model_validate(
            {
                "kind": "clipcap",
                "embed_dim": DIM,
                "prefix_length": prefix_length,
                "mapper": MlpMapper(kind="mlp"),
                "text": GptConfig(
                    vocabulary="trained", vocab_size=60, width=32, layers=2, heads=4, max_positions=40, dropout=0.0, init_std=0.1
                ),
                "learns": learns,
                "max_text_length": 16,
            }
        )
    )


def made(architecture: ClipCapArchitecture) -> Loaded:
    return assemble(architecture, text=None, tokenizer=Tokenizer.train([*TEXTS, "a picture of"], 60))


def config(steps: int, **changes: Any) -> OptimConfig:
    return OptimConfig(losses=Losses(lm=1), steps=steps, batch_size=8, lr=5e-3, weight_decay=0.0, threads=1, **changes)


def test_batches_are_a_function_of_the_step_and_an_epoch_sees_every_pair_once(stored: Path) -> None:
    pairs = read_embeddings([stored], text="captions", where={"source": "shop"})
    tokenizer = Tokenizer.train(TEXTS, 60)

    def make() -> EmbeddedBatches:
        return EmbeddedBatches(pairs, tokenizer, batch_size=4, max_length=16, seed=3, prompt="a picture of ")

    batches = make()
    first, second = batches(0), batches(1)
    again = make()(1)
    assert torch.equal(again.ids_BT, second.ids_BT)
    assert torch.equal(again.embed_BE, second.embed_BE)
    seen = torch.cat([first.embed_BE, second.embed_BE]).numpy()
    assert {row.tobytes() for row in seen} == {row.tobytes() for row in pairs.embed_PE}
    assert batches.steps_per_epoch == 2
    prompt = tokenizer.encode_prompt("a picture of ")
    assert (first.ids_BT[:, : len(prompt)] == torch.from_numpy(prompt)).all()


def test_a_table_is_learnt_by_heart_and_the_folder_captions_it(stored: Path, tmp_path: Path) -> None:
    pairs = read_embeddings([stored], text="captions", where={"source": "shop"})
    loaded = start()
    before = mean_loss(loaded, pairs)
    train_on_embeddings(config(120), pairs, loaded, out=tmp_path / "model", work=tmp_path / "work", seed=0)
    again = load_network(tmp_path / "model")
    assert mean_loss(again, pairs, batch_size=3) == pytest.approx(mean_loss(again, pairs), rel=1e-4)
    assert mean_loss(again, pairs) < 0.05 < 1 < before
    start_ids = torch.from_numpy(again.tokenizer.encode_prompt(""))
    ids = again.model.generate(torch.from_numpy(pairs.embed_PE), start_ids, Greedy(max_length=16, min_length=0)).ids_BnL[:, 0]
    assert [again.tokenizer.decode(row) for row in ids] == TEXTS
    assert not (tmp_path / "work/checkpoint").exists()


class _Stop(Exception):
    pass


def test_a_stopped_training_ends_with_the_same_bytes_and_a_frozen_gpt2_keeps_its_own(stored: Path, tmp_path: Path) -> None:
    pairs = read_embeddings([stored], text="captions")
    settings = config(20, checkpoint_every_steps=5)
    whole = start(learns="mapper")
    text = {name: tensor.clone() for name, tensor in whole.model.text.state_dict().items()}
    train_on_embeddings(settings, pairs, whole, out=tmp_path / "whole", work=tmp_path / "a", seed=0)
    assert all(torch.equal(tensor, text[name]) for name, tensor in whole.model.text.state_dict().items())

    def stop(report: Any) -> None:
        raise _Stop

    with pytest.raises(_Stop):
        train_on_embeddings(
            settings, pairs, start(learns="mapper"), out=tmp_path / "again", work=tmp_path / "b", seed=0, on_step=stop
        )
    train_on_embeddings(settings, pairs, start(learns="mapper"), out=tmp_path / "again", work=tmp_path / "b", seed=0)
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_embeddings_and_prompts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    wrong = EmbeddingPairs(np.zeros((1, DIM + 1), dtype=np.float32), ["a"], np.zeros(1, dtype=np.int64))
    with pytest.raises(ConfigError, match=f"width {DIM}"):
        train_on_embeddings(config(1), wrong, start(), out=tmp_path / "m", work=tmp_path / "w", seed=0)
    right = EmbeddingPairs(np.zeros((1, DIM), dtype=np.float32), ["a"], np.zeros(1, dtype=np.int64))
    with pytest.raises(ConfigError, match="max_text_length"):
        train_on_embeddings(config(1), right, start(), out=tmp_path / "m", work=tmp_path / "w", seed=0, prompt="ball " * 30)


def test_prefix_lengths_are_compared_with_all_else_equal(stored: Path, tmp_path: Path) -> None:
    pairs = read_embeddings([stored], text="captions", where={"source": "shop"})
    heldout = read_embeddings([stored], text="captions", where={"source": "blog"})
    seen: list[int] = []
    found = compare_prefix_lengths(
        config(15), pairs, heldout, [1, 4], made, start(learns="mapper").architecture, work=tmp_path, seed=0,
        on_trained=lambda length, loaded: seen.append(loaded.architecture.prefix_length),
    )  # fmt: skip
    assert [result.prefix_length for result in found] == seen == [1, 4]
    assert found[0].parameters < found[1].parameters
    assert found[1].train_loss < found[1].heldout_loss
    again = compare_prefix_lengths(
        config(15), pairs, heldout, [4], made, start(learns="mapper").architecture, work=tmp_path, seed=0
    )  # fmt: skip
    assert again == found[1:]
