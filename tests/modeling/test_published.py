"""What reading others' checkpoints has in common: everything that does not fit is listed, and nothing is changed then."""

import pytest
import torch
from torch import nn

from capfilt.config.architectures.med import MedArchitecture
from capfilt.errors import CheckpointError, ConfigError
from capfilt.modeling.published import activation_of, architecture_from, named, to_ours, to_theirs, told_fields
from capfilt.modeling.weights import state_dict_in


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(2, 6)
        self.out = nn.Linear(2, 2)


NAMES = named("qkv", "q", "k", "v") | named("out", "o")


def test_what_goes_out_comes_in_again() -> None:
    ours, again = Net(), Net()
    theirs = to_theirs(ours.state_dict(), NAMES)
    assert sorted(theirs) == sorted(f"{name}.{kind}" for name in "qkvo" for kind in ("weight", "bias"))
    to_ours(theirs, again, NAMES, "a net", "file")
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), again.state_dict().values(), strict=True))


def test_all_that_does_not_fit_is_listed_and_nothing_is_changed() -> None:
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    theirs = to_theirs(Net().state_dict(), NAMES)
    del theirs["k.weight"]
    theirs |= {"o.bias": torch.zeros(3), "more": torch.zeros(1), "kept.aside": torch.zeros(1)}
    with pytest.raises(CheckpointError) as error:
        to_ours(theirs, net, NAMES, "a net", "file", is_ignored=lambda name: name.startswith("kept."))
    for part in (
        "file: expected the tensors of a net",
        "missing k.weight [2, 2]",
        "misshapen o.bias: expected [2], found [3]",
        "unexpected more [1]",
    ):
        assert part in str(error.value)
    assert "kept.aside" not in str(error.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_tensor_that_may_miss_keeps_its_value() -> None:
    net = Net()
    before = net.out.bias.detach().clone()
    theirs = to_theirs(Net().state_dict(), NAMES)
    del theirs["o.bias"]
    to_ours(theirs, net, NAMES, "a net", "file", may_miss=lambda name: name == "o.bias")
    assert torch.equal(net.out.bias, before)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": x}, lambda x: {"state_dict": x, "epoch": 3}])
def test_a_state_dict_is_found_bare_or_wrapped(wrap: object) -> None:
    content = wrap({"module.a": torch.zeros(1)})  # type: ignore[operator]
    assert list(state_dict_in(content, "file")) == ["a"]


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"epoch": 3}, [1], None])
def test_what_is_no_state_dict_is_told(content: object) -> None:
    with pytest.raises(CheckpointError, match="expected a state dict"):
        state_dict_in(content, "file")


def test_fields_that_describe_no_architecture_are_told_one_by_one() -> None:
    with pytest.raises(ConfigError, match=r"file: expected an architecture that fits, found(.|\n)*image: Field required"):
        architecture_from({"kind": "med"}, MedArchitecture, "file")
    with pytest.raises(ConfigError, match="hidden_act: expected one of gelu"):
        activation_of("swish")


def test_a_callers_fields_may_be_a_name_a_mapping_or_nothing() -> None:
    assert told_fields(None, MedArchitecture, dict) == {}
    assert told_fields({"a": 1}, MedArchitecture, dict) == {"a": 1}
    assert told_fields("med_tiny", MedArchitecture, dict)["kind"] == "med"
    assert told_fields("tiny", MedArchitecture, dict, known_as={"tiny": "med_tiny"})["kind"] == "med"
