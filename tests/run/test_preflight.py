"""What is refused before the first row is read, and what is not asked where it does not matter."""

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from capfilt.config.load import load_pipeline, load_text
from capfilt.config.machine import StageResources
from capfilt.config.pipeline import Pipeline
from capfilt.config.read import ReadConfig
from capfilt.errors import CheckpointError, ConfigError, InputError
from capfilt.plan import PlannedStage, plan_stages
from capfilt.rounds import _until
from capfilt.run.preflight import check_means, missing_files

YAML = """
version: 1
name: tiny
output: {folder}/run
read: {{paths: [web.parquet]}}
caption: {{captioner: {{kind: med, checkpoint: "{folder}/captioner"}}}}
filter: {{filter: {{kind: custom, target: "capfilt_fakes:Filter"}}}}
dedup: {{decontaminate: ["{folder}/heldout.parquet"]}}
resources: {{executor: {executor}, caption: {{gpus: {caption}}}, filter: {{gpus: {filter}, actors: 2}}, train: {{gpus: 1}}}}
"""


@pytest.fixture
def pipeline(tmp_path: Path, fakes: Path) -> Callable[..., Pipeline]:
    pq.write_table(pa.table({"key": ["k"], "image": [b""], "captions": [["a"]]}), tmp_path / "heldout.parquet")

    def make(executor: str = "local", caption: float = 0, filter: float = 0) -> Pipeline:
        return load_text(YAML.format(folder=tmp_path, executor=executor, caption=caption, filter=filter))

    return make


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def have(count: int) -> None:
        cuda = types.SimpleNamespace(is_available=lambda: count > 0, device_count=lambda: count)
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))

    return have


def stages(pipeline: Pipeline, **done: int) -> tuple[PlannedStage, ...]:
    return plan_stages(pipeline, 1, {f"round-1/{name}": count for name, count in done.items()})


def test_a_gpu_that_is_not_there_is_refused_with_the_settings_to_change(
    pipeline: Callable[..., Pipeline], gpus: Callable[[int], None]
) -> None:
    gpus(0)
    asked = pipeline(caption=1, filter=0.5)
    with pytest.raises(ConfigError, match=r"found none.*resources.caption.gpus and resources.filter.gpus to 0") as told:
        check_means(asked, stages(asked))
    assert told.value.exit_code == 2
    assert "train" not in str(told.value), "nothing is trained in this run"


def test_more_gpus_than_there_are_would_wait_for_ever_on_ray(
    pipeline: Callable[..., Pipeline], gpus: Callable[[int], None]
) -> None:
    gpus(1)
    asked = pipeline("ray", caption=1, filter=0.5)
    with pytest.raises(ConfigError, match=r"at most the 1 GPU.*resources.filter.gpus: 1 \(gpus x actors\)"):
        check_means(asked, stages(asked))


@pytest.mark.parametrize(
    ("executor", "actors", "kind", "is_refused"),
    [("ray", 9, "url_list", True), ("ray", 8, "url_list", False), ("local", 9, "url_list", False), ("ray", 9, "folder", False)],
)
def test_more_download_actors_than_connections_to_a_host_are_refused(
    executor: str, actors: int, kind: str, is_refused: bool, pipeline: Callable[..., Pipeline]
) -> None:
    asked = pipeline(executor)
    resources = asked.resources.model_copy(update={"download": StageResources(actors=actors)})
    read = TypeAdapter(ReadConfig).validate_python({"kind": kind, "paths": ["web"]})
    asked = asked.model_copy(update={"resources": resources, "read": read})
    ahead = [stage for stage in plan_stages(asked, 1, {}) if stage.unit == "pool"]
    if is_refused:
        with pytest.raises(ConfigError, match=r"at most download.per_host, 8, .*found 9"):
            check_means(asked, ahead)
    else:
        check_means(asked, ahead)
    check_means(asked, [replace(stage, done=stage.total) for stage in ahead])


def test_what_is_done_needs_nothing_any_more(pipeline: Callable[..., Pipeline], gpus: Callable[[int], None]) -> None:
    gpus(0)
    asked = pipeline(caption=1, filter=1)
    check_means(asked, stages(asked, candidates=1, dedup=1))


def test_a_checkpoint_that_cannot_be_loaded_is_met_before_any_work(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    asked = pipeline()
    with pytest.raises(CheckpointError, match="captioner"):
        check_means(asked, stages(asked))


def test_a_missing_file_of_pairs_is_named_with_its_setting(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    (tmp_path / "heldout.parquet").unlink()
    asked = pipeline()
    with pytest.raises(InputError, match=r"dedup.decontaminate.0: expected a file, found none"):
        check_means(asked, stages(asked))


def test_what_comes_after_until_needs_nothing_yet(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    (tmp_path / "heldout.parquet").unlink()
    asked = pipeline()
    planned = stages(asked)
    check_means(asked, _until(planned, "screen"))
    assert [stage.name for stage in _until(planned, "caption")][-1] == "filter", "caption and filter are one job"
    assert _until(planned, None) == planned
    with pytest.raises(InputError, match="heldout"):
        check_means(asked, _until(planned, "dedup"))


def trains(folder: Path, output: str, executor: str, workers: int) -> Pipeline:
    text = """
version: 1
name: t
output: {output}
finetune:
  start: {folder}
  human: {folder}/heldout.parquet
  filter: {{losses: {{itm: 1}}, steps: 1, batch_size: 9, lr: 0.1}}
resources: {{executor: {executor}, ray: {{address: auto}}, train: {{gpus: 1, workers: {workers}}}}}
"""
    return load_text(text.format(folder=folder, output=output, executor=executor, workers=workers))


def test_workers_of_this_machine_need_its_gpus_and_those_of_a_cluster_a_folder_they_share(
    pipeline: Callable[..., Pipeline], gpus: Callable[[int], None], tmp_path: Path
) -> None:
    gpus(2)
    own = trains(tmp_path, str(tmp_path / "run"), "local", 3)
    with pytest.raises(
        ConfigError, match=r"resources.train: expected at most the 2 GPU\(s\) of this machine, found 3 workers x 1"
    ):
        check_means(own, stages(own))
    gpus(0)
    shared = trains(tmp_path, str(tmp_path / "run"), "ray", 3)
    check_means(shared, stages(shared))
    store = trains(tmp_path, "memory://bucket/run", "ray", 3)
    with pytest.raises(ConfigError, match="storage that every node sees"):
        check_means(store, stages(store))


def test_a_file_of_pairs_without_its_columns_is_refused_before_any_work(
    pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    pq.write_table(pa.table({"image": [b""], "caption": ["a"]}), tmp_path / "heldout.parquet")
    asked = pipeline()
    with pytest.raises(
        InputError, match=r"decontaminate.0: expected the columns key, image, captions in .*found no captions, key"
    ):
        check_means(asked, stages(asked))


def test_so_is_one_that_is_no_parquet(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    (tmp_path / "heldout.parquet").write_bytes(b"key,image")
    asked = pipeline()
    with pytest.raises(InputError, match=r"decontaminate.0: expected a Parquet file of pairs, found something else"):
        check_means(asked, stages(asked))


def test_a_plan_names_the_files_that_are_not_there(pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    assert missing_files(pipeline()) == []
    (tmp_path / "heldout.parquet").unlink()
    assert missing_files(pipeline()) == [f"NOT THERE: dedup.decontaminate.0, {tmp_path}/heldout.parquet"]


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("quickstart_coca evaluate.retrieval.rerank_top_k=16", "rerank_top_k: expected 0 for a CoCa"),
        ("quickstart_clipcap evaluate.retrieval.model=clipcap", "expected a model that scores pairs, found `clipcap`, a ClipCap"),
    ],
)
def test_a_model_that_cannot_rank_as_asked_is_refused_before_any_work(said: str, found: str) -> None:
    asked = load_pipeline(said.partition(" ")[0], [said.partition(" ")[2]])
    with pytest.raises(ConfigError, match=found):
        check_means(asked, [one for one in stages(asked) if one.name in ("pretrain", "finetune", "evaluate")])


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("pretrain.matching={pairs: both}", "pretrain.matching: expected null for a MED"),
        ("finetune.filter.matching={negatives: near}", "finetune.filter.matching: expected null for a MED"),
    ],
)
def test_a_sohos_matching_is_refused_of_others_before_any_work(said: str, found: str) -> None:
    asked = load_pipeline("quickstart", [said])
    with pytest.raises(ConfigError, match=found):
        check_means(asked, stages(asked))
    own = load_pipeline("quickstart_soho")
    trainings = [one for one in stages(own) if one.name in ("pretrain", "finetune")]
    check_means(own.model_copy(update={"resources": asked.resources}), trainings)


def test_pictures_and_texts_of_another_type_are_refused_before_any_work(
    pipeline: Callable[..., Pipeline], gpus: Callable[[int], None], tmp_path: Path
) -> None:
    asked = pipeline()
    table = {"key": ["k"], "image": [b""], "captions": ["a"]}
    for column, values in (("captions", [7]), ("image", [{"bytes": b"", "path": "x"}])):
        pq.write_table(pa.table(table | {column: values}), tmp_path / "heldout.parquet")
        with pytest.raises(InputError, match=rf"decontaminate.0: expected .* column {column}, found .*Write it so"):
            check_means(asked, stages(asked))
    pq.write_table(pa.table(table), tmp_path / "heldout.parquet")
    with pytest.raises(CheckpointError, match="captioner"):  # the file is past: its texts are one to a row
        check_means(asked, stages(asked))
