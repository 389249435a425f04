"""Every pipeline file in pipelines/ loads, opens as it should, and can be planned."""

import re
from pathlib import Path

import pytest

from capfilt.config.load import load_pipeline
from capfilt.errors import InputError
from capfilt.run.planning import plan_pipeline
from capfilt.run.trainings import check_trainings

PIPELINES = sorted((Path(__file__).parent.parent / "pipelines").glob("*.yaml"))
NEEDS_DATA = {"laion_subset", "real_pool", "real_pool_gpu"}


@pytest.fixture(params=PIPELINES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def test_the_files_are_there() -> None:
    assert {"debug", "quickstart", "laion_subset"} <= {path.stem for path in PIPELINES}


def test_a_pipeline_loads_and_is_named_as_its_file(path: Path) -> None:
    pipeline = load_pipeline(path)
    assert pipeline.name == path.stem
    assert pipeline.output == f"runs/{path.stem}"


def test_a_pipeline_opens_with_what_it_does_and_needs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    opening = re.match(r"(#.*\n)+", text)
    assert opening is not None
    assert opening[0].startswith(f"# {path.stem}: ")
    for line in (rf"capfilt run +pipelines/{path.name}", "\n# What ", "\n# Hardware ", "\n# Time ", r"\{output\}"):
        assert re.search(line, opening[0]), line


def test_its_trainings_can_begin(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what lies on the user's machine: losses, vocabulary, what `init` names, workers."""
    monkeypatch.setattr("capfilt.run.trainings._require", lambda *_: None)
    check_trainings(load_pipeline(path), {"pretrain", "finetune"})


def test_a_pipeline_can_be_planned(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pipeline = load_pipeline(path)
    if path.stem in NEEDS_DATA:
        with pytest.raises(InputError, match=re.escape(pipeline.read.paths[0])):
            plan_pipeline(pipeline)
    else:
        plan = plan_pipeline(pipeline)
        assert plan.chunks or pipeline.read is None, "only a pipeline that trains from shards has nothing to read"
        assert all(stage.done == 0 < stage.total for stage in plan.stages)
    assert list(tmp_path.iterdir()) == [], "a plan writes nothing"
