"""Loading a pipeline: placeholders, overrides, limit, the fingerprint's settings, and messages with file and line."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.base import is_operational
from capfilt.config.find import bundled
from capfilt.config.load import load_pipeline, load_text, output_setting, result_settings
from capfilt.config.pipeline import Pipeline
from capfilt.config.round import TrainedModel
from capfilt.errors import ConfigError

SMALL = """\
version: 1
name: small
output: runs/small
read:
  kind: url_list
  paths: ["{output}/web.parquet"]
caption:
  captioner: {kind: med, checkpoint: a}
filter:
  filter: {kind: med, checkpoint: b}
select:
  min_itm: 0.5
"""
BUNDLED = sorted(bundled("pipelines").glob("*.yaml"))


def trouble(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_text(text, "pipelines/x.yaml", overrides)
    return str(caught.value)


@pytest.mark.parametrize("file", BUNDLED, ids=lambda file: file.stem)
def test_every_bundled_pipeline_loads_by_path_and_by_name(file: Path) -> None:
    assert load_pipeline(file) == load_pipeline(file.stem)
    assert "{output}" not in load_pipeline(file).model_dump_json()


def test_the_output_placeholder_is_resolved_everywhere() -> None:
    assert load_text(SMALL).read.paths == ["runs/small/web.parquet"]


def test_a_limit_gives_the_run_a_folder_of_its_own() -> None:
    limited = load_text(SMALL, limit=64)
    assert limited.output == "runs/small-limit-64"
    assert limited.read.paths == ["runs/small-limit-64/web.parquet"]


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 row, found 0"):
        load_text(SMALL, limit=0)


def test_an_override_changes_one_value_and_leaves_the_rest() -> None:
    changed = load_text(SMALL, overrides=["select.min_itm=0.7", "resources.caption.gpus=0.25"])
    assert changed.select is not None
    assert changed.select.min_itm == 0.7
    assert changed.resources.caption.gpus == 0.25
    assert changed.read == load_text(SMALL).read


@pytest.mark.parametrize("name", ["download", "screen", "report", "resources"])
def test_null_gives_a_section_that_is_never_missing_its_defaults(name: str) -> None:
    text = SMALL + "screen: {text: [{kind: not_empty}]}\nreport: {cards: 1}\nresources: {fuse: false}\ndownload: {retries: 9}\n"
    emptied = load_text(text, overrides=[f"{name}=null"])
    assert getattr(emptied, name) == getattr(load_text(SMALL), name) != getattr(load_text(text), name)


def test_an_override_begins_a_list_that_the_file_has_not() -> None:
    changed = load_text(SMALL, overrides=["dedup.decontaminate.0=a.parquet", "screen.text.0={kind: not_empty}"])
    assert changed.dedup is not None
    assert changed.dedup.decontaminate == ["a.parquet"]
    assert [rule.kind for rule in changed.screen.text] == ["not_empty"]


def test_the_home_folder_is_found_where_no_shell_did_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load_text(SMALL, overrides=["output=~/runs/x"]).output == "/home/ada/runs/x"


def test_an_overridden_output_reaches_the_placeholders() -> None:
    assert load_text(SMALL, overrides=["output=/data/run/"]).read.paths == ["/data/run/web.parquet"]


@pytest.mark.parametrize("address", ["file:///", "file://", "s3://", "abfs+x:////"])
def test_an_address_without_a_folder_is_no_output(address: str) -> None:
    with pytest.raises(ConfigError, match=f"output: expected a folder, found an address without one, '{re.escape(address)}'"):
        load_text(SMALL, overrides=[f"output={address}"])


def test_an_override_of_a_list_place_replaces_and_the_next_place_appends() -> None:
    changed = load_text(SMALL, overrides=["read.paths.0=a.parquet", "read.paths.1=b.parquet", "read.paths.2=c.parquet"])
    assert changed.read.paths == ["a.parquet", "b.parquet", "c.parquet"]
    rules = load_text(SMALL, overrides=["screen.text=[{kind: words}]", "screen.text.0.min=3"]).screen.text
    assert rules[0].model_dump() == {"kind": "words", "min": 3, "max": 10_000}


def test_an_override_with_null_takes_a_section_away() -> None:
    assert load_text(SMALL, overrides=["select=null"]).select is None


def test_an_override_may_hold_a_whole_section() -> None:
    changed = load_text(SMALL, overrides=["caption.captioner={kind: med, checkpoint: c}"])
    assert changed.caption is not None
    assert changed.caption.captioner.model_dump() == {"name": None, "kind": "med", "checkpoint": "c"}


def test_an_unknown_kind_names_line_choices_and_the_nearest() -> None:
    assert trouble(SMALL.replace("kind: med, checkpoint: a", "kind: medd, checkpoint: a")) == (
        "pipelines/x.yaml:8 caption.captioner.kind: 'medd' is not one of trained, med, coca, blip2, clipcap, custom. "
        "Did you mean 'med'?"
    )


def test_an_unknown_key_names_line_choices_and_the_nearest() -> None:
    told = trouble(SMALL.replace("min_itm", "min_itn"))
    assert told.startswith(
        "pipelines/x.yaml:12 select.min_itn: unknown key 'min_itn'; expected one of policy, min_itm, min_itc, by, combine."
    )
    assert told.endswith("Did you mean 'min_itm'?")


def test_a_key_in_the_wrong_section_is_told_where_it_belongs() -> None:
    assert trouble(SMALL + "rows_per_chunk: 12\n").endswith("It belongs to 'read.rows_per_chunk'.")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("select.min_itm=high", "select.min_itm: 'high' is text; expected a number"),
        ("select.min_itm=1.5", "select.min_itm: 1.5 is out of range; expected <= 1"),
        ("rounds=2.5", "rounds: 2.5 is a number; expected a whole number"),
        ('rounds="2"', "rounds: '2' is text; expected a whole number"),
        ("rounds=true", "rounds: true is true or false; expected a whole number"),
        (
            "caption.captioner={checkpoint: a}",
            "caption.captioner.kind: key is missing; expected one of trained, med, coca, blip2, clipcap, custom",
        ),
        ("caption.captioner=med", "caption.captioner: 'med' is text; expected a section with `kind`"),
        ("caption.captioner={kind: med}", "caption.captioner.checkpoint: key is missing"),
        ("read.paths=[]", "read.paths: 0 entries found; expected at least 1"),
        ("read.paths.3=x", "`read.paths` is a list; expected a number from 0 to 1 (1 appends), found '3'"),
        ("name.first=x", "expected a section or list at `name`, found the value 'small'"),
        ("version=2", "version: 2 found; expected 1"),
        ("caption.decode={kind: beam, min_length: 9, max_length: 3}", "min_length 9 is above max_length 3"),
        ("nonsense", "expected path=value"),
        ("rounds=[", "expected YAML"),
        ("selct.min_itm=1", "Did you mean 'select'?"),
        ("name=a-{outptu}", "expected {output}, the only placeholder, found '{outptu}'"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_given(override: str, told: str) -> None:
    message = trouble(SMALL, override)
    assert message.startswith(f"--set {override}")
    assert told in message


def test_all_problems_are_told_at_once() -> None:
    told = trouble(SMALL.replace("min_itm: 0.5", "min_itm: 5\n  polcy: both"), "rounds=0")
    assert told.startswith("pipelines/x.yaml has 3 problems:\n")
    assert "pipelines/x.yaml:12 select.min_itm: 5 is out of range" in told
    assert "pipelines/x.yaml:13 select.polcy: unknown key" in told
    assert "--set rounds=0 rounds: 0 is out of range; expected >= 1" in told


def test_a_missing_key_is_told_with_the_line_of_its_section() -> None:
    assert trouble(SMALL.replace('  paths: ["{output}/web.parquet"]\n', "")) == (
        "pipelines/x.yaml:4 read.paths: key is missing; expected a value for it. Add it"
    )


def test_sections_that_do_not_fit_together_are_told() -> None:
    assert "section `select` builds on `filter`" in trouble(SMALL, "filter=null")


def test_captioner_and_filter_may_not_be_the_same_weights() -> None:
    assert "same weights (b)" in trouble(SMALL, "caption.captioner.checkpoint=b")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words"])
def test_a_file_without_sections_is_refused(text: str) -> None:
    assert "expected `key: value` sections" in trouble(text)


def test_a_missing_file_lists_the_pipelines_there_are_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"quickstart.*Did you mean 'quickstart'\?"):
        load_pipeline("quickstrat")


def test_result_settings_hold_no_operational_field() -> None:
    settings = result_settings(load_pipeline("quickstart"))
    operational = {name for name, field in Pipeline.model_fields.items() if is_operational(field)}
    assert {"output", "report", "resources"} <= operational
    assert operational.isdisjoint(settings)
    assert "deadline_s" not in settings["download"]
    assert "checkpoint_every_steps" not in settings["pretrain"]
    assert settings["download"]["image_px"] == 96
    assert json.loads(json.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("override", "counts"),
    [
        ("select.min_itm=0.6", True),
        ("seed=7", True),
        ("caption.captioner.checkpoint=z", True),
        ("download.image_px=100", True),
        ("download.deadline_s=1", False),
        ("resources.executor=local", False),
        ("report.cards=1", False),
        ("output=runs/elsewhere", False),
    ],
)
def test_only_result_settings_change_the_fingerprint(override: str, counts: bool) -> None:
    changed = result_settings(load_text(SMALL, overrides=[override])) != result_settings(load_text(SMALL))
    assert changed is counts


def test_paths_outside_the_run_folder_are_kept_as_they_are() -> None:
    outside = load_text(SMALL, overrides=["read.paths=[runs/smaller/web.parquet, data/web.parquet]"])
    assert result_settings(outside)["read"]["paths"] == ["runs/smaller/web.parquet", "data/web.parquet"]


def test_a_setting_that_merely_equals_the_run_folder_is_no_path_in_it() -> None:
    alike = result_settings(load_text(SMALL, overrides=["name=mine", "caption.prompt=mine", "output=mine"]))
    assert alike == result_settings(load_text(SMALL, overrides=["name=mine", "caption.prompt=mine", "output=/archive/mine"]))
    assert (alike["name"], alike["caption"]["prompt"]) == ("mine", "mine")


def test_a_path_that_holds_the_folders_name_twice_keeps_its_fingerprint_when_the_run_is_moved() -> None:
    text = SMALL.replace("{output}/web.parquet", "{output}/x/web/web.parquet")
    (here,) = result_settings(load_text(text, overrides=["output=web"]))["read"]["paths"]
    (there,) = result_settings(load_text(text, overrides=["output=/archive/web"]))["read"]["paths"]
    assert here == there == "{output}/x/web/web.parquet"


@pytest.mark.parametrize("folder", ["runs/small", "42", "try #2", "true"])
def test_a_folder_is_named_whatever_its_name_means_in_yaml(folder: str) -> None:
    assert Path(load_text(SMALL, overrides=[output_setting(folder)]).output) == Path(folder)


@given(st.floats(min_value=0, max_value=1), st.integers(1, 10**6))
def test_what_is_set_is_what_is_read(share: float, rows: int) -> None:
    loaded = load_text(SMALL, overrides=[f"select.min_itm={share!r}", f"read.rows_per_chunk={rows}"])
    assert loaded.select is not None
    assert (loaded.select.min_itm, loaded.read.rows_per_chunk) == (share, rows)


def test_a_trained_model_brings_round_0_and_needs_training() -> None:
    assert load_pipeline("quickstart").has_round_0
    assert not load_text(SMALL).has_round_0
    assert TrainedModel(kind="trained").kind == "trained"
    assert "needs the sections `pretrain` and `finetune`" in trouble(SMALL, "caption.captioner={kind: trained}")
