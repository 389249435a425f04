"""Which MEDs count as one set of weights."""

from capfilt.config.architectures.med import MedArchitecture
from capfilt.modeling.build import build
from capfilt.modeling.trunk import Fingerprint, fingerprint, share_weights


def made(architecture: MedArchitecture, seed: int, *roles: str) -> Fingerprint:
    return fingerprint(build(architecture.model_copy(update={"roles": roles or architecture.roles}), seed=seed))


def test_one_network_in_both_roles_shares_its_weights(architecture: MedArchitecture) -> None:
    assert share_weights(made(architecture, 0), made(architecture, 0))
    assert not share_weights(made(architecture, 0), made(architecture, 1))


def test_networks_without_a_decoder_share_nothing_unless_all_is_equal(architecture: MedArchitecture) -> None:
    assert not share_weights(made(architecture, 0, "filter"), made(architecture, 1, "filter"))
    assert share_weights(made(architecture, 0, "filter"), made(architecture, 0, "filter"))
