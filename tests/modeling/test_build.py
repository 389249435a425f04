from pathlib import Path

import pytest
import torch

from capfilt.config.architectures import load_architecture
from capfilt.config.architectures.med import MedArchitecture
from capfilt.errors import ConfigError
from capfilt.modeling.build import build

MODELS = Path(__file__).parents[2] / "models"
MILLIONS = {
    "med_tiny": (0.7, 1.0),
    "med_small": (1.2, 1.35),
    "med_medium": (11.9, 12.3),
    "med_vit_b16": (240, 260),
    "med_vit_l16": (460, 485),
}


@pytest.mark.parametrize("path", sorted(MODELS.glob("med_*.yaml")), ids=lambda path: path.stem)
def test_every_architecture_has_the_size_its_file_promises(path: Path) -> None:
    with torch.device("meta"):
        model = build(load_architecture(path))
    low, high = MILLIONS[path.stem]
    assert low < sum(p.numel() for p in model.parameters()) / 1e6 < high


def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator(architecture: MedArchitecture) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = build(architecture, seed=1).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    second, other = build(architecture, seed=1).state_dict(), build(architecture, seed=2).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["itm_head.weight"], other["itm_head.weight"])


def test_a_wrong_architecture_names_the_field(tmp_path: Path) -> None:
    text = (MODELS / "med_tiny.yaml").read_text().replace("heads: 4, stem: conv", "heads: 5, stem: konv")
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"odd\.yaml image\.stem.*konv"):
        load_architecture(tmp_path / "odd.yaml")
    with pytest.raises(ConfigError, match="found no file"):
        load_architecture(tmp_path / "none.yaml")
