"""What a MED alone owes: see test_protocol.py for the rest."""

from collections.abc import Callable
from pathlib import Path

from PIL.Image import Image

from capfilt.captioners import Caption, build_captioner
from capfilt.config.decoding import Nucleus
from capfilt.config.round import CaptionConfig, MedModel

Paint = Callable[[int], Image]
SAMPLING = Nucleus(top_p=0.95, min_length=5, max_length=16)


def test_a_model_is_its_weights_and_not_its_folder(med_folder: Path, tmp_path: Path, paint: Paint) -> None:
    from shutil import copytree

    elsewhere = copytree(med_folder, tmp_path / "round-0" / "models" / "captioner")
    found: list[list[list[Caption]]] = []
    for folder in (med_folder, elsewhere):
        config = CaptionConfig(captioner=MedModel(kind="med", checkpoint=str(folder)), decode=SAMPLING, batch_size=4)
        captioner = build_captioner(config, trained=None, device="cpu")
        assert captioner.name == "round-0/captioner"
        found.append(captioner.caption([paint(1)], seeds=[[0, 1]]))
    assert found[0] == found[1]
