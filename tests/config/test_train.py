"""One `pretrain` section or several, what fine-tuning begins with, and what is told where they do not fit together."""

from pathlib import Path

import pytest

from capfilt.config.load import load_pipeline, load_text, result_settings
from capfilt.errors import ConfigError

NETWORK = "losses: {lm: 1}, steps: 1, batch_size: 2, lr: 0.001, mix: {web: 1, human: 0}"
TUNED = "losses: {lm: 1}, steps: 1, batch_size: 2, lr: 0.001"


def pipeline(pretrain: str, finetune: str = "", rest: str = "") -> str:
    return f"""
version: 1
name: t
output: runs/t
read: {{paths: [a.parquet]}}
pretrain:
{pretrain}
{f"finetune: {{{finetune}}}" if finetune else ""}
{rest}
"""


def several(*sections: str) -> str:
    return "\n".join(f"  - {{{NETWORK}, {section}}}" for section in sections)


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "t.yaml")
    return str(caught.value)


def test_a_single_section_makes_the_model_pretrained() -> None:
    found = load_text(pipeline(f"  {{{NETWORK}, architecture: med_tiny}}"))
    assert [(one.model, one.training) for one in found.pretrainings] == [("pretrained", "pretrain")]
    assert found.models == ("pretrained",)


def test_several_sections_are_models_by_name_in_their_order() -> None:
    sections = several("name: eyes, architecture: med_tiny", "name: words, architecture: clipcap_tiny, init: {image: eyes}")
    found = load_text(pipeline(sections, f"human: h.parquet, captioner: {{{TUNED}}}, filter: {{{TUNED}, start: eyes}}"))
    assert found.models == ("eyes", "words", "captioner", "filter")
    assert (found.start_of("captioner"), found.start_of("filter")) == ("words", "eyes")
    assert [one["name"] for one in result_settings(found)["pretrain"]] == ["eyes", "words"]


def test_a_mistake_in_one_of_several_sections_is_told_with_its_line() -> None:
    told = refusal(pipeline(several("name: eyes, architecture: med_tiny", "name: words, architecture: x, step: 3")))
    assert told.startswith("t.yaml:8 pretrain.1.step: unknown key 'step'; expected one of")
    assert "Did you mean 'steps'?" in told


def test_a_mistake_in_a_single_section_is_told_as_before() -> None:
    assert refusal(pipeline(f"  {{{NETWORK}, architecture: med_tiny, step: 3}}")).startswith(
        "t.yaml:7 pretrain.step: unknown key 'step'; expected one of"
    )


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        (several("architecture: med_tiny"), "expected a name for each of several sections, found none"),
        (several("name: a, architecture: x", "name: a, architecture: x"), "no other model of the round has, found a"),
        (several("name: filter, architecture: x"), "no other model of the round has, found filter"),
        (several("name: A b, architecture: x"), "expected text of the form"),
        (
            several("name: a, architecture: x, init: {image: b}", "name: b, architecture: x"),
            "of an earlier section or a folder, found b",
        ),
        ("  []", "expected at least 1"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(sections: str, found: str) -> None:
    assert found in refusal(pipeline(sections))


def test_evaluate_names_a_model_of_the_round() -> None:
    rest = "evaluate: {heldout: h.parquet, retrieval: {model: eye}}"
    sections = several("name: eyes, architecture: med_tiny")
    assert "expected one of the round's models, eyes, found eye" in refusal(pipeline(sections, rest=rest))
    assert load_text(pipeline(sections, rest=rest.replace("eye}", "eyes}"))).evaluate is not None


def test_labelled_pictures_are_named_where_they_are_mixed_in() -> None:
    section = f"  {{{NETWORK}, architecture: coca_tiny}}".replace("web: 1, human: 0", "web: 0.9, human: 0, labelled: 0.1")
    assert "expected labelled pictures for mix.labelled 0.1, found null" in refusal(pipeline(section))


def test_a_captioner_from_stored_embeddings_needs_no_human_pairs_and_a_filter_does() -> None:
    stored = f"captioner: {{{TUNED}, embeddings: {{paths: [e.parquet]}}}}"
    one = f"  {{{NETWORK}, architecture: med_tiny}}"
    assert load_text(pipeline(one, stored)).finetune is not None
    assert "human: expected the file of human pairs" in refusal(pipeline(one, f"{stored}, filter: {{{TUNED}}}"))
    assert "human: expected the file of human pairs" in refusal(pipeline(one, f"captioner: {{{TUNED}}}"))


def test_a_shared_trunk_needs_one_start() -> None:
    sections = several("name: a, architecture: x", "name: b, architecture: x")
    both = f"human: h.parquet, trunk: shared, captioner: {{{TUNED}}}, filter: {{{TUNED}, start: a}}"
    assert "shared needs one start for captioner and filter, found a and b" in refusal(pipeline(sections, both))


@pytest.mark.parametrize("family", ["coca", "blip2", "clipcap", "soho"])
def test_the_quickstart_of_a_family_is_the_quickstart_but_for_its_models(family: str) -> None:
    own, plain = (load_pipeline(name) for name in (f"quickstart_{family}", "quickstart"))
    for section in ("read", "screen", "dedup", "write", "rounds"):
        assert getattr(own, section).__class__ is getattr(plain, section).__class__
    assert own.has_round_0
    assert own.finetune is not None
    assert own.finetune.models == ("captioner", "filter")


def test_every_architecture_that_a_pipeline_names_is_there() -> None:
    root = Path(__file__).parents[2]
    for path in (root / "pipelines").glob("*.yaml"):
        for one in load_pipeline(path).pretrainings:
            assert (root / "models" / f"{one.architecture}.yaml").is_file(), path


@pytest.mark.parametrize(
    ("matching", "found"),
    [
        ("{pairs: both, negatives: hard}", r"pretrain.matching.negatives: 'hard' is not one of random, near"),
        ("{pairs: all}", r"pretrain.matching.pairs: 'all' is not one of exchanged, both"),
        ("{negative: near}", r"unknown key 'negative'; expected one of pairs, negatives. Did you mean 'negatives'?"),
    ],
)
def test_a_way_of_matching_that_there_is_not_is_told_with_the_choices(matching: str, found: str) -> None:
    text = pipeline(f"  {{{NETWORK.replace('{lm: 1}', '{itm: 1}')}, architecture: soho_tiny, matching: {matching}}}")
    assert found in refusal(text)


def test_matching_without_its_loss_is_refused() -> None:
    text = pipeline(f"  {{{NETWORK.replace('{lm: 1}', '{mlm: 1}')}, architecture: soho_tiny, matching: {{pairs: both}}}}")
    assert "matching: expected the loss itm, which it is about, found none in losses" in refusal(text)
