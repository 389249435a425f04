"""What a training would refuse is refused before any work: each by its setting, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from capfilt.config.load import load_pipeline
from capfilt.errors import CapfiltError, CheckpointError, ConfigError
from capfilt.plan import plan_stages
from capfilt.run.preflight import check_means
from capfilt.run.trainings import check_trainings

TRAININGS = {"pretrain", "finetune"}
LISTED = (
    "pretrain=[{name: eyes, architecture: %s, mix: {web: 1, human: 0}, losses: {itc: 1, lm: 1}, steps: 1, batch_size: 8, lr: 1},"
)
LISTED += (
    " {name: after, architecture: %s, init: {%s}, mix: {web: 1, human: 0}, losses: {lm: 1}, steps: 1, batch_size: 8, lr: 1}]"
)


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(CapfiltError) as told:
        check_trainings(load_pipeline(name, overrides), TRAININGS)
    assert told.value.exit_code == 2
    return str(told.value)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (
            "quickstart pretrain.architecture=med_vit_b16",
            "pretrain.vocabulary: architecture med_vit_b16 needs bert-base-uncased's",
        ),
        (
            "quickstart pretrain.architecture=clipcap_mlp_gpt2",
            "pretrain.losses: expected some of lm, which a ClipCap learns from",
        ),
        (
            "quickstart pretrain.losses.mlm=1",
            "pretrain.losses: expected some of itc, itm, lm, which a MED learns from, found mlm",
        ),
        (
            "quickstart pretrain.init.text=/nowhere/bert",
            "pretrain.init.text: expected a model folder, a checkpoint file or a hub name",
        ),
        ("laion_subset pretrain.init.image=/nowhere/vit", "pretrain.init.image: expected a model folder"),
        ("quickstart pretrain.init.image=a/vit", "pretrain.init.image: expected an architecture with stem: patch and positions"),
        ("quickstart pretrain.vocabulary=/nowhere/vocab.txt", "pretrain.vocabulary: expected a file of one token per line"),
        (
            "quickstart pretrain.accumulate_steps=7",
            "pretrain.batch_size: expected a multiple of workers x accumulate_steps, 1 x 7",
        ),
        ("quickstart_coca pretrain.init.text=a/bert", "pretrain.init.text: expected null, found a/bert"),
        ("quickstart_coca pretrain.accumulate_steps=2", "expected accumulate_steps 1 and resources.train.workers 1 for a CoCa"),
        (
            "quickstart_soho resources.train.workers=2",
            "resources.train.workers 1 for a SOHO, which learns from whole batches only",
        ),
        ("quickstart_blip2 pretrain.1.init.image=null", "pretrain (qformer).init.image: architecture blip2_tiny needs the MED"),
        (
            "quickstart_coca finetune.filter.losses.itm=1",
            "finetune.filter.losses: expected some of itc, which a CoCa learns from",
        ),
        ("quickstart_coca finetune.trunk=shared", "finetune.trunk: expected separate for a CoCa"),
        ("quickstart finetune.captioner.start=/nowhere/model", "finetune.captioner.start: expected a model folder"),
    ],
)
def test_a_training_that_cannot_be_right_is_refused_by_its_setting(said: str, found: str) -> None:
    assert found in refusal(*said.split(" "))


def test_workers_with_a_batch_norm_cannot_be_as_one() -> None:
    both = ("resources.train.workers=2", "pretrain.negatives=global")
    assert "pretrain.negatives: global promises what one worker would learn" in refusal("quickstart", *both)


@pytest.mark.parametrize(
    ("architectures", "found"),
    [
        (("coca_tiny", "blip2_tiny", "image: eyes"), "expected a MED, found `eyes`, a CoCa"),
        (("coca_tiny", "clipcap_tiny", "image: eyes"), "expected a MED, found `eyes`, a CoCa"),
        (("med_tiny", "blip2_tiny_lm", "image: eyes, text: eyes"), "expected a BLIP-2, found `eyes`, a MED"),
        (
            ("med_tiny", "med_vit_b16", "image: eyes"),
            "expected a model folder, a checkpoint file or a hub name (owner/name), found none",
        ),
    ],
)
def test_an_earlier_section_must_make_what_a_later_one_builds_on(architectures: tuple[str, str, str], found: str) -> None:
    told = refusal("quickstart", LISTED % architectures, "finetune.start=eyes", "evaluate.retrieval=null")
    assert told.startswith("pretrain (after).init.image: ")
    assert found in told


def test_a_vocabulary_of_another_size_than_the_architectures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    asked = ("pretrain.architecture=med_vit_b16", f"pretrain.vocabulary={tmp_path}/vocab.txt")
    assert "expects 30524 tokens with [DEC] and [ENC]" in refusal("quickstart", *asked)


def test_what_lies_at_a_start_is_asked_for_its_role(med_folder: Path, tiny_folder: object) -> None:
    check_trainings(load_pipeline("quickstart", [f"finetune.start={med_folder}"]), TRAININGS)
    soho = tiny_folder("soho")  # type: ignore[operator]
    told = refusal("quickstart", f"finetune.captioner.start={soho}")
    assert "finetune.captioner.start: expected one of BLIP-2, BLIP-2 with a language model, ClipCap, CoCa, MED" in told


def test_hub_names_are_fetched_before_any_mark_and_what_the_run_makes_itself_is_left_for_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("capfilt.run.trainings.find_checkpoint", fetched.append)
    said = [
        "pretrain.architecture=med_vit_b16",
        "pretrain.init={image: a/vit, text: a/bert}",
        'finetune.filter.start="{output}/round-1/models/captioner"',
    ]
    check_trainings(load_pipeline("quickstart", said), TRAININGS)
    assert fetched == ["a/vit", "a/bert"]

    def nothing(source: str) -> None:
        raise CheckpointError(f"{source}: not there")

    monkeypatch.setattr("capfilt.run.trainings.find_checkpoint", nothing)
    assert refusal("quickstart", *said) == "pretrain.init.image: a/vit: not there"


def test_a_data_set_that_is_learnt_from_is_written_as_parquet() -> None:
    told = refusal("quickstart", "write.formats=[webdataset]")
    assert told.startswith("write.formats: expected parquet, which pretrained learns from (mix.web: 0.8), found webdataset")
    for also in ("pretrain.mix={web: 0, human: 1}", "pretrain.web={kind: webdataset, paths: [a.tar]}"):
        check_trainings(load_pipeline("quickstart", ["write.formats=[webdataset]", also]), TRAININGS)


def test_an_architecture_that_is_not_at_hand_is_no_matter_once_its_trainings_are_done() -> None:
    asked = load_pipeline("quickstart", ["pretrain.architecture=nowhere"])
    check_trainings(asked, {"dedup", "evaluate"})
    with pytest.raises(ConfigError, match="nowhere"):
        check_trainings(asked, TRAININGS)


def test_pictures_that_nobody_looks_at_have_no_size(tiny_folder: object, med_folder: Path) -> None:
    clipcap = tiny_folder("clipcap")  # type: ignore[operator]
    own = f"{{start: {clipcap}, steps: 1, batch_size: 2, lr: 0.001, losses: {{lm: 1}}, embeddings: {{paths: [a.parquet]}}}}"
    said = [f"finetune.captioner={own}", f"finetune.filter.start={med_folder}", "finetune.image_px=96"]
    check_trainings(load_pipeline("quickstart", said), {"finetune"})


def test_a_training_that_is_done_or_not_asked_for_is_not_asked_about() -> None:
    wrong = load_pipeline("quickstart", ["pretrain.losses.mlm=1", "finetune.filter.losses.lm=1"])
    check_trainings(wrong, {"evaluate"})
    with pytest.raises(ConfigError, match=r"finetune\.filter\.losses"):
        check_trainings(wrong, {"finetune"})


def test_a_run_asks_before_it_loads_or_reads_anything() -> None:
    wrong = load_pipeline("laion_subset", ["pretrain.init={image: null, text: /nowhere/bert}"])
    with pytest.raises(CheckpointError, match=r"pretrain\.init\.text"):
        check_means(wrong, plan_stages(wrong, 1, {}))


def test_it_needs_no_torch() -> None:
    code = """
import sys
from capfilt.config.load import load_pipeline
from capfilt.run.trainings import check_trainings
check_trainings(load_pipeline("quickstart"), {"pretrain", "finetune"})
print("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
