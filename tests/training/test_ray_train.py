"""Two workers through Ray Train (capfilt/run/ray_train.py), which needs a minute before its first step: one such training only.

Stands here for the files of pairs that these tests share.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from capfilt.config.machine import RayConfig, Resources, TrainResources
from capfilt.config.train import Losses, Mix, PretrainConfig
from capfilt.errors import CapfiltError, InputError
from capfilt.modeling.families import load_network
from capfilt.run.ray_train import RayLaunch, hear, look_around, share_of
from capfilt.training import WebPairs, pretrain, workers


class Stop(Exception):
    pass


def stop(report: Any) -> None:
    raise Stop


@pytest.mark.slow
def test_ray_train_goes_on_where_processes_were_stopped_and_ends_with_their_weights_and_the_loss_of_one_worker(
    tmp_path: Path, pool_file: str, human_file: str, architecture_file: Path
) -> None:
    text = architecture_file.read_text().replace("stem: conv", "stem: patch").replace("dropout: 0.1", "dropout: 0.0")
    architecture_file.write_text(text)
    config = PretrainConfig(
        architecture=str(architecture_file),
        mix=Mix(web=0.5, human=0.5),
        human=human_file,
        losses=Losses(itc=1, itm=1, lm=1),
        steps=12,
        batch_size=8,
        lr=1e-6,  # the losses of the steps are compared: Adam makes whole steps of what rounding leaves of a 0
        negatives="global",
        checkpoint_every_steps=4,
        threads=1,
    )

    def run(name: str, count: int, **options: Any) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        out, work = tmp_path / name, tmp_path / f"{name}-work"
        web = WebPairs((pool_file,), "pool")
        pretrain(config, web=web, out=out, work=work, seed=1, device="cpu", workers=count, **options)
        return load_network(out).model.state_dict(), json.loads((work / "log.jsonl").read_text().splitlines()[-1])

    (_, one), (whole, _) = run("one", 1), run("whole", 2)
    with pytest.raises(Stop):
        run("cut", 2, on_step=stop)
    steps: list[int] = []
    launch = RayLaunch(Resources(ray=RayConfig(logical_cpus=4)), str(tmp_path))
    cut, two = run("cut", 2, launch=launch, on_step=lambda report: steps.append(report.step))
    assert steps == [10, 12], "it began at the checkpoint of step 8"
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
    for name in ("itc", "itm", "lm", "loss"):
        assert two[name] == pytest.approx(one[name], abs=2e-5), name
    assert not [path.name for path in (tmp_path / "cut-work").iterdir() if path.name in ("ray", workers.MEETING, "checkpoint")]


def test_what_a_worker_raised_is_raised_in_its_own_class_after_what_was_told_before() -> None:
    steps: list[int] = []
    with pytest.raises(InputError, match=r"^no such file$"):
        hear([("step", 10), ("failed", ("InputError", "no such file")), ("failed", ("CapfiltError", "it left"))], steps.append)
    assert steps == [10]
    with pytest.raises(CapfiltError, match="training, worker 1: KeyError"):
        hear([("failed", ("CapfiltError", "training, worker 1: KeyError: 'x'"))], steps.append)


def test_a_node_that_does_not_see_the_run_folder_says_so(tmp_path: Path) -> None:
    task = workers.Task("pretrain", {}, 2, "cpu", tmp_path / "work")
    with pytest.raises(CapfiltError, match=r"every node sees under the same path, found no .*work on"):
        look_around(task, str(tmp_path))


@pytest.mark.parametrize(
    ("ray", "count", "device", "expected"),
    [
        (RayConfig(logical_cpus=4), 2, "cpu", {"CPU": 1.0}),
        (RayConfig(logical_cpus=4), 8, "cpu", {"CPU": 0.5}),
        (RayConfig(logical_cpus=4), 8, "cuda", {"CPU": 0.5, "GPU": 1.0}),
        (RayConfig(address="auto", logical_cpus=4), 64, "cuda", {"CPU": 1.0, "GPU": 1.0}),
    ],
)
def test_workers_ask_for_no_more_than_will_ever_be_free(
    ray: RayConfig, count: int, device: str, expected: dict[str, float]
) -> None:
    share = share_of(workers.Task("pretrain", {}, count, device, Path()), Resources(ray=ray, train=TrainResources(gpus=1)))
    assert share == pytest.approx(expected, abs=0.01)
    assert share["CPU"] * count <= ray.logical_cpus or ray.address != "local"
