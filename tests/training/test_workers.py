"""Two processes train together over gloo."""

import json
import os
from typing import Any

import pytest
import torch

from capfilt.config.train import Losses, Mix, OptimConfig, PretrainConfig
from capfilt.errors import CapfiltError, ConfigError, InputError
from capfilt.modeling.families import load_network
from capfilt.training import WebPairs, finetune_filter, pretrain, workers


@pytest.fixture
def plain_architecture(architecture_file):
    text = architecture_file.read_text().replace("stem: conv", "stem: patch").replace("dropout: 0.1", "dropout: 0.0")
    architecture_file.write_text(text)
    return architecture_file


@pytest.fixture
def make(tmp_path, pool_file, human_file, plain_architecture):
    def run(name: str, count: int, changes: dict[str, Any] | None = None, **options: Any) -> Any:
        values = {
            "architecture": str(plain_architecture),
            "mix": Mix(web=0.5, human=0.5),
            "human": human_file,
            "losses": Losses(itc=1, itm=1, lm=1),
            "steps": 10,
            "batch_size": 8,
            "lr": 1e-6,  # the losses of the steps are compared: Adam makes whole steps of what rounding leaves of a 0
            "negatives": "global",
            "threads": 1,
            **(changes or {}),
        }
        out, work = tmp_path / name, tmp_path / f"{name}-work"
        web = WebPairs((pool_file,), "pool")
        pretrain(PretrainConfig(**values), web=web, out=out, work=work, seed=1, device="cpu", workers=count, **options)
        return out, json.loads((work / "log.jsonl").read_text().splitlines()[-1])

    return run


def test_with_global_negatives_two_workers_have_the_loss_of_one(make, tmp_path, human_file):
    (start, one), (_, two) = make("one", 1), make("two", 2)
    for name in ("itc", "itm", "lm", "loss"):
        assert two[name] == pytest.approx(one[name], abs=2e-5), name
    asked = OptimConfig(
        losses=Losses(itc=1, itm=1), steps=10, batch_size=8, lr=1e-6, threads=1, negatives="global", accumulate_steps=1
    )
    found = []
    for count in (1, 2):
        work = tmp_path / f"filter-{count}"
        finetune_filter(
            asked, human_file, start=start, out=tmp_path / f"f{count}", work=work, seed=1, device="cpu", workers=count
        )
        found.append(json.loads((work / "log.jsonl").read_text().splitlines()[-1]))
    for name in ("itc", "itm"):
        assert found[1][name] == pytest.approx(found[0][name], abs=2e-5), name


class Stop(Exception):
    pass


def test_two_workers_that_were_stopped_end_with_the_same_weights(make):
    changes = {"steps": 12, "checkpoint_every_steps": 4, "negatives": "local", "lr": 1e-3}
    whole, _ = make("whole", 2, changes)

    def stop(report: Any) -> None:
        raise Stop

    with pytest.raises(Stop):
        make("cut", 2, changes, on_step=stop)
    cut, _ = make("cut", 2, changes)
    expected, found = load_network(whole).model.state_dict(), load_network(cut).model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_a_worker_says_is_what_the_caller_hears(make, plain_architecture):
    with pytest.raises(InputError, match=r"nowhere\.parquet: expected a Parquet file"):
        make("a", 2, {"human": "nowhere.parquet"})
    plain_architecture.write_text(plain_architecture.read_text().replace("stem: patch", "stem: conv"))
    with pytest.raises(ConfigError, match="negatives: global promises"):
        make("b", 2)


def test_a_worker_that_dies_is_told(make, monkeypatch):
    monkeypatch.setattr(workers, "_worker", _die)
    with pytest.raises(CapfiltError, match="one that ended with code 7"):
        make("a", 2)


def _die(task: Any, rank: int, told: Any) -> None:
    os._exit(7)
