import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from capfilt.config.machine import StageResources
from capfilt.config.pipeline import Pipeline
from capfilt.run.build import Job, build_stage, limit_threads, own_threads
from capfilt.stages import download
from capfilt.stages.base import Guarded


@pytest.mark.parametrize("name", ["caption", "filter"])
def test_a_worker_builds_its_stage_from_the_job_alone(tmp_path: Path, pipeline_of: Callable[..., Pipeline], name: str) -> None:
    stage = build_stage("caption" if name == "caption" else "filter", Job("candidates", pipeline_of(tmp_path), "f", 1))
    assert isinstance(stage, Guarded)
    assert stage.name == name


@pytest.mark.parametrize(
    ("executor", "actors", "share"), [("ray", 1, 10), ("ray", 3, 3), ("ray", 20, 1), ("local", 3, 10)], ids=str
)
def test_download_actors_share_the_connections_to_a_host(
    tmp_path: Path,
    pipeline_of: Callable[..., Pipeline],
    monkeypatch: pytest.MonkeyPatch,
    executor: str,
    actors: int,
    share: int,
) -> None:
    kept: list[int] = []
    monkeypatch.setattr(download, "DownloadStage", lambda config, **_: kept.append(config.per_host) or FakeStage())
    pipeline = pipeline_of(tmp_path)
    resources = pipeline.resources.model_copy(update={"executor": executor, "download": StageResources(actors=actors)})
    section = pipeline.download.model_copy(update={"per_host": 10})
    build_stage("download", Job("pool", pipeline.model_copy(update={"resources": resources, "download": section}), "f"))
    assert kept == [share]


class FakeStage:
    name, reads, writes = "download", (), ()


def test_a_job_names_its_folder(tmp_path: Path, pipeline_of: Callable[..., Pipeline]) -> None:
    assert Job("pool", pipeline_of(tmp_path), "f").folder == f"{tmp_path}/pool"
    assert Job("candidates", pipeline_of(tmp_path), "f", 3).folder == f"{tmp_path}/round-3/candidates"


def test_the_threads_of_a_pass_do_not_reach_the_training_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [2]
    fake = types.SimpleNamespace(get_num_threads=lambda: now[0], set_num_threads=lambda threads: now.__setitem__(0, threads))
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with own_threads():
        limit_threads(1)
        assert (now, os.environ["OMP_NUM_THREADS"]) == ([1], "1")
    assert (now, os.environ["OMP_NUM_THREADS"]) == ([2], "2")
