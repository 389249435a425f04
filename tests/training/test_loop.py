import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from capfilt.config.train import Losses, OptimConfig
from capfilt.errors import CapfiltError
from capfilt.modeling.batch import Batch
from capfilt.training.loop import train


class Tiny(nn.Module):
    """Two losses, dropout from torch's generator, a generator and a buffer of its own: all that a resume has to bring back."""

    def __init__(self, nan_at: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 4)
        self.generator = torch.Generator().manual_seed(1)
        self.register_buffer("seen", torch.zeros(()))
        self.nan_at = nan_at
        self.progress = (-1, -1)

    def set_progress(self, step, steps_per_ramp):
        self.progress = (step, steps_per_ramp)

    def get_extra_state(self):
        return self.generator.get_state()

    def set_extra_state(self, state):
        self.generator.set_state(state)

    def losses(self, batch):
        noise = torch.rand(4, generator=self.generator)
        x = nn.functional.dropout(self.layer(batch.pixels_BCHW.view(-1, 4)), 0.5)
        self.seen += 1
        lm = (x - noise).square().mean()
        if self.progress[0] == self.nan_at:
            lm = lm * float("nan")
        return {"itm": x.abs().mean(), "lm": lm}


class Numbers:
    steps_per_epoch = 3
    pairs = 2

    def __call__(self, step):
        pixels = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(step))
        return Batch(pixels, torch.zeros(2, 1).long(), torch.ones(2, 1).long(), torch.arange(2))


class Stop(Exception):
    pass


def config(**changes) -> OptimConfig:
    values = {"losses": Losses(itm=2, lm=1), "steps": 30, "batch_size": 2, "lr": 0.05, "warmup_steps": 3, "threads": 1}
    return OptimConfig(**{**values, "checkpoint_every_steps": 4, "clip_norm": 1.0, **changes})


def log_of(work):
    return [
        {k: v for k, v in json.loads(line).items() if k != "pairs_per_s"}
        for line in (work / "log.jsonl").read_text().splitlines()
    ]


def trained(work, stop_at=None, **changes):
    module = Tiny()

    def on_step(report):
        if report.step == stop_at:
            raise Stop

    train(module, Numbers(), config(**changes), work=work, seed=3, on_step=on_step)
    return module.state_dict()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop_at=st.sampled_from([10, 20, 30]), every=st.integers(3, 17))
def test_a_stopped_training_goes_on_to_the_same_bits_and_the_same_log(tmp_path_factory, stop_at, every):
    folder = tmp_path_factory.mktemp("loop")
    whole = trained(folder / "whole", checkpoint_every_steps=every)
    with pytest.raises(Stop):
        trained(folder / "cut", stop_at, checkpoint_every_steps=every)
    resumed = trained(folder / "cut", checkpoint_every_steps=every)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert whole["seen"] == 30
    assert log_of(folder / "cut") == log_of(folder / "whole")


def test_a_resumed_training_does_not_repeat_what_the_checkpoint_holds(tmp_path):
    with pytest.raises(Stop):
        trained(tmp_path, 20)
    seen = []
    train(Tiny(), Numbers(), config(), work=tmp_path, seed=3, on_step=lambda report: seen.append(report.step))
    assert seen == [20, 30]  # from the checkpoint of step 16
    assert [line["step"] for line in log_of(tmp_path)] == [10, 20, 30]


def test_the_log_has_every_loss_and_their_weighted_sum(tmp_path):
    trained(tmp_path)
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert all(line["loss"] == pytest.approx(2 * line["itm"] + line["lm"], abs=1e-6) for line in lines)


def test_a_loss_that_is_no_number_ends_the_training_and_leaves_no_poisoned_checkpoint(tmp_path):
    with pytest.raises(CapfiltError, match=r"lm = nan between steps 1 and 8; lower lr"):
        train(Tiny(nan_at=5), Numbers(), config(), work=tmp_path, seed=3)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["step-00000004.pt"]


def test_threads_and_chance_are_as_they_were_afterwards(tmp_path):
    before, state = torch.get_num_threads(), torch.get_rng_state()
    inside = []
    module = Tiny()
    module.eval()
    train(
        module,
        Numbers(),
        config(threads=before + 1),
        work=tmp_path,
        seed=3,
        on_step=lambda report: inside.append(torch.get_num_threads()),
    )
    assert set(inside) == {before + 1}
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training


def test_two_threads_add_up_in_one_order(tmp_path):
    """Without torch's deterministic algorithms, indexing with repeated rows gives its gradient in the order of the threads."""

    class Indexed(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.layer = nn.Linear(64, 64)

        def set_progress(self, step, steps_per_ramp): ...

        def losses(self, batch):
            generator = torch.Generator().manual_seed(7)
            x = self.layer(torch.rand(8, 64, generator=generator))
            return {
                "lm": (x[torch.randint(8, (4096,), generator=generator)] * torch.rand(4096, 64, generator=generator))
                .square()
                .mean()
            }

    found = []
    for run in range(3):
        module = Indexed()
        train(module, Numbers(), config(steps=10, threads=2), work=tmp_path / str(run), seed=3)
        found.append(module.layer.weight.detach().clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_module_is_told_its_progress(tmp_path):
    module = Tiny()
    train(module, Numbers(), config(steps=7), work=tmp_path, seed=3, steps_per_ramp=6)
    assert module.progress == (6, 6)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights(tmp_path):
    found = []

    class Watched(Tiny):
        def losses(self, batch):
            found.append(self.layer(batch.pixels_BCHW.view(-1, 4)).dtype)
            return super().losses(batch)

    module = Watched()
    train(module, Numbers(), config(steps=2, dtype="bfloat16"), work=tmp_path, seed=3)
    assert found == [torch.bfloat16] * 2
    assert module.layer.weight.dtype == torch.float32


def test_a_half_written_log_line_is_forgotten(tmp_path):
    with pytest.raises(Stop):
        trained(tmp_path, 20)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 2')
    trained(tmp_path)
    assert [line["step"] for line in log_of(tmp_path)] == [10, 20, 30]
