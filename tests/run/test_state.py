"""The run folder between two starts: what it records, what a moved one still is, and what may change."""

import json

import pytest
import yaml

from capfilt.config.load import load_pipeline
from capfilt.errors import RunStateError
from capfilt.plan import plan_stages
from capfilt.run import files
from capfilt.run.state import check, limit_of, version_warnings

from .conftest import Web


def test_the_config_names_the_run_folder_once_so_that_a_moved_run_finds_its_files(live: Web) -> None:
    live.run_folder.mkdir()
    (live.folder / "web.parquet").rename(live.run_folder / "web.parquet")
    live.run('read.paths=["{output}/web.parquet"]', until="pool")
    tree = yaml.safe_load((live.run_folder / "config.yaml").read_text())
    assert tree["output"] == str(live.run_folder)
    assert tree["read"]["paths"] == ["{output}/web.parquet"]
    moved = live.folder / "moved"
    live.run_folder.rename(moved)
    pipeline = load_pipeline(moved / "config.yaml", [f"output={moved}"])
    assert pipeline.read.paths == [f"{moved}/web.parquet"]
    check(pipeline, [], None, None)


def test_a_limited_run_remembers_its_limit(live: Web) -> None:
    pipeline = load_pipeline(live.folder / "tiny.yaml", (), 6)
    assert limit_of(pipeline.output) is None
    live.run_folder.mkdir()
    files.put_json(f"{pipeline.output}/plan.json", {"settings": {"limit": 6}})
    assert limit_of(pipeline.output) == 6


def test_another_version_of_a_library_is_told(live: Web) -> None:
    live.run(until="pool")
    assert version_warnings(str(live.run_folder)) == []
    plan = live.run_folder / "plan.json"
    told = json.loads(plan.read_text())
    told["versions"]["pyarrow"] = "1.0"
    plan.write_text(json.dumps(told))
    (warning,) = version_warnings(str(live.run_folder))
    assert warning.startswith("warning: this run was begun with pyarrow 1.0, now ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("filter.batch_size=4", r"filter.batch_size: 2 -> 4"),
        ("read.rows_per_chunk=3", r"read.rows_per_chunk: 4 -> 3.*--from read"),
        ("seed=1", r"seed: 0 -> 1"),
    ],
)
def test_a_result_setting_that_changed_is_refused_with_the_difference(live: Web, change: str, told: str) -> None:
    live.run(until="select")
    with pytest.raises(RunStateError, match=f"(?s){told}"):
        live.run(change)


def test_all_differences_are_listed_at_once(live: Web) -> None:
    live.run(until="select")
    with pytest.raises(RunStateError, match=r"(?s)found 2 changed.*caption.batch_size.*select.min_itm.*--from round-1/caption"):
        live.run("caption.batch_size=4", "select.min_itm=0.3")


def test_a_run_whose_name_was_once_taken_for_its_folder_goes_on(live: Web) -> None:
    """As versions recorded it that folded every text which equals `output`."""
    alike = f"name={live.run_folder}"
    live.run(alike, until="pool")
    plan = live.run_folder / "plan.json"
    told = json.loads(plan.read_text())
    assert told["settings"]["name"] == str(live.run_folder)
    told["settings"]["name"] = "{output}"
    plan.write_text(json.dumps(told))
    moved = live.folder / "moved"
    live.run_folder.rename(moved)
    check(load_pipeline(moved / "config.yaml", [f"output={moved}"]), [], None, None)
    other = load_pipeline(moved / "config.yaml", [f"output={moved}", "name=other"])
    with pytest.raises(RunStateError, match=r'name: ".*/run" -> "other"'):
        check(other, plan_stages(other, 1, {}), None, None)
