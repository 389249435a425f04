"""The plan: every row in exactly one chunk, the stages in order, `--from` and `--until` by name."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.load import load_text
from capfilt.config.pipeline import Pipeline
from capfilt.config.read import UrlList
from capfilt.errors import ConfigError, InputError
from capfilt.plan import Chunk, InputFile, differences, find_stage, first_touched, make_chunks, make_plan

WHOLE = """
version: 1
name: whole
output: runs/whole
rounds: 2
read: {paths: [web.parquet], rows_per_chunk: 4}
caption: {captioner: {kind: trained}}
filter: {filter: {kind: trained}}
dedup: {}
select: {}
write: {}
pretrain:
  {architecture: med_tiny, mix: {web: 0.8, human: 0.2}, human: h.parquet, losses: {lm: 1}, steps: 1, batch_size: 1, lr: 0.1}
finetune:
  human: h.parquet
  captioner: {losses: {lm: 1}, steps: 1, batch_size: 1, lr: 0.1}
  filter: {losses: {itm: 1}, steps: 1, batch_size: 1, lr: 0.1}
evaluate: {heldout: e.parquet}
"""
FILE = InputFile("web.parquet", 100, "e", (10,))


def read_config(rows_per_chunk: int) -> UrlList:
    return UrlList(paths=["x"], rows_per_chunk=rows_per_chunk)


@pytest.fixture
def whole() -> Pipeline:
    return load_text(WHOLE)


row_groups = st.lists(st.integers(0, 50), max_size=5)
indexes = st.lists(row_groups, max_size=4).map(
    lambda files: [InputFile(f"f{i}.parquet", 1, "e", tuple(groups)) for i, groups in enumerate(files)]
)


@given(indexes, st.integers(1, 20), st.none() | st.integers(1, 120))
def test_every_row_up_to_the_limit_is_in_exactly_one_chunk(
    index: list[InputFile], rows_per_chunk: int, limit: int | None
) -> None:
    chunks = make_chunks(read_config(rows_per_chunk), index, limit)
    covered = [(chunk.path, chunk.first_row + row) for chunk in chunks for row in range(chunk.rows)]
    rows = [(file.path, row) for file in index for row in range(file.rows)]
    assert covered == rows[:limit]
    assert all(0 < chunk.rows <= rows_per_chunk for chunk in chunks)


@given(indexes, st.integers(1, 20))
def test_no_chunk_crosses_a_row_group(index: list[InputFile], rows_per_chunk: int) -> None:
    groups = {file.path: file.row_groups for file in index}
    for chunk in make_chunks(read_config(rows_per_chunk), index):
        before = sum(groups[chunk.path][: chunk.row_group])
        assert chunk.start + chunk.rows <= groups[chunk.path][chunk.row_group]
        assert chunk.first_row == before + chunk.start


@given(indexes, st.integers(1, 20))
def test_appended_files_renumber_nothing(index: list[InputFile], rows_per_chunk: int) -> None:
    before = make_chunks(read_config(rows_per_chunk), index)
    after = make_chunks(read_config(rows_per_chunk), [*index, InputFile("later.parquet", 1, "e", (7, 3))])
    assert after[: len(before)] == before
    assert len({chunk.chunk_id for chunk in after}) == len(after)


def test_chunk_ids_do_not_hold_the_run_folder() -> None:
    def ids(output: str) -> list[str]:
        file = InputFile(f"{output}/miniweb/web.parquet", 1, "e", (9,))
        return [chunk.chunk_id for chunk in make_chunks(read_config(4), [file], output=output)]

    assert ids("runs/a") == ids("/elsewhere/b")


def test_another_etag_gives_other_chunk_ids() -> None:
    (old,) = make_chunks(read_config(10), [FILE])
    (new,) = make_chunks(read_config(10), [InputFile("web.parquet", 100, "other", (10,))])
    assert old.chunk_id != new.chunk_id


def test_the_stages_follow_the_straight_line(whole: Pipeline) -> None:
    plan = make_plan(whole, [FILE])
    training = ["pretrain", "finetune", "evaluate"]
    a_round = ["caption", "filter", "dedup", "select", "write", *training]
    expected = ["read", "download", "screen", *(f"round-0/{name}" for name in training)]
    expected += [f"round-{number}/{name}" for number in (1, 2) for name in a_round]
    assert [stage.label for stage in plan.stages] == [*expected, "report"]


def test_a_run_without_training_ends_after_write() -> None:
    text = WHOLE[: WHOLE.index("pretrain")].replace("rounds: 2", "rounds: 1").replace("trained", "med, checkpoint: ")
    text = text.replace("checkpoint: }}", "checkpoint: a}}", 1).replace("checkpoint: }}", "checkpoint: b}}")
    plan = make_plan(load_text(text), [FILE])
    assert [stage.name for stage in plan.stages][-2:] == ["write", "report"]
    assert all(stage.round != 0 for stage in plan.stages)


@pytest.mark.parametrize(
    ("kind", "told"),
    [("url_list", "url")]
    + [(kind, "image (of the input; nothing is fetched)") for kind in ("parquet_images", "webdataset", "img2dataset", "folder")],
)
def test_download_reads_addresses_only_where_the_input_has_no_pictures(kind: str, told: str) -> None:
    plan = make_plan(load_text(WHOLE.replace("paths:", f"kind: {kind}, paths:")), [FILE])
    assert {stage.name: stage.reads for stage in plan.stages}["download"] == told


def test_what_is_done_is_told_by_unit(whole: Pipeline) -> None:
    plan = make_plan(whole, [FILE], done={"pool": 2, "round-1/candidates": 1})
    done = {stage.label: (stage.done, stage.total) for stage in plan.stages}
    assert done["download"] == (2, 3)
    assert done["round-1/filter"] == (1, 3)
    assert done["round-2/filter"] == (0, 3)


def test_no_rows_is_an_input_error(whole: Pipeline) -> None:
    with pytest.raises(InputError, match="expected rows, found 1 file\\(s\\) with 0 rows"):
        make_plan(whole, [InputFile("web.parquet", 1, "e", (0,))])


def test_the_plan_is_json(whole: Pipeline) -> None:
    told = json.loads(json.dumps(make_plan(whole, [FILE], limit=5).to_json()))
    assert (told["rows"], told["chunks"], told["settings"]["limit"]) == (5, 2, 5)


def test_resources_are_not_in_the_fingerprint_and_thresholds_are(whole: Pipeline) -> None:
    def fingerprint(text: str) -> str:
        return make_plan(load_text(text), [FILE]).fingerprint

    assert fingerprint(WHOLE) == fingerprint(WHOLE + "resources: {executor: local}\n")
    assert fingerprint(WHOLE) != fingerprint(WHOLE.replace("select: {}", "select: {min_itm: 0.7}"))


@pytest.mark.parametrize(
    ("name", "option", "label"),
    [
        ("select", "--from", "round-1/select"),
        ("pretrain", "--from", "round-0/pretrain"),
        ("pretrain", "--until", "round-1/pretrain"),
        ("round-2/filter", "--from", "round-2/filter"),
        ("download", "--until", "download"),
        ("pool", "--from", "read"),
    ],
)
def test_a_stage_is_found_by_name(whole: Pipeline, name: str, option: str, label: str) -> None:
    stages = make_plan(whole, [FILE]).stages
    assert stages[find_stage(stages, name, option)].label == label


def test_an_unknown_stage_lists_those_of_the_run(whole: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"--until filtre.*round-1/filter"):
        find_stage(make_plan(whole, [FILE]).stages, "filtre", "--until")


def test_differences_are_told_by_path() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "d": [1], "e": None}) == [("a.c", 2, 3)]


@pytest.mark.parametrize(
    ("path", "label"),
    [("select.min_itm", "round-1/select"), ("pretrain.steps", "round-0/pretrain"), ("seed", "read"), ("read.paths", "read")],
)
def test_a_changed_setting_touches_the_first_stage_that_reads_it(whole: Pipeline, path: str, label: str) -> None:
    stages = make_plan(whole, [FILE]).stages
    assert stages[first_touched(stages, [path])].label == label


def test_planning_imports_no_torch_and_no_ray() -> None:
    code = "import sys, capfilt.run.planning; print(sorted({'torch', 'ray', 'transformers', 'img2dataset'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_chunk_travels_as_json() -> None:
    from dataclasses import asdict

    (chunk, *_) = make_chunks(read_config(4), [FILE])
    assert Chunk(**json.loads(json.dumps(asdict(chunk)))) == chunk
