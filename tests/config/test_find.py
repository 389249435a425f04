"""Which file a name stands for: beside the pipeline, then the current folder's, then the bundled one."""

from pathlib import Path

import pytest

from capfilt.config.find import bundled, find_yaml
from capfilt.errors import ConfigError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("kind: med\n")
    return file


def test_a_name_is_looked_for_beside_then_in_models_then_bundled(here: Path) -> None:
    pipeline = put(here / "mine" / "run.yaml")
    assert find_yaml("med_tiny", "models", pipeline) == bundled("models") / "med_tiny.yaml"
    own = put(here / "models" / "med_tiny.yaml")
    assert find_yaml("med_tiny", "models", pipeline).resolve() == own
    beside = put(here / "mine" / "med_tiny.yaml")
    assert find_yaml("med_tiny", "models", pipeline) == beside
    assert find_yaml("med_tiny.yaml", "models", pipeline.parent) == beside


def test_a_relative_path_counts_from_the_pipeline_file_first(here: Path) -> None:
    pipeline = put(here / "mine" / "run.yaml")
    near = put(here / "mine" / "nets" / "own.yaml")
    put(here / "nets" / "own.yaml")
    assert find_yaml("nets/own.yaml", "models", pipeline) == near


def test_an_absolute_path_is_taken_as_it_is(here: Path) -> None:
    assert find_yaml(put(here / "a.yaml"), "pipelines") == here / "a.yaml"


def test_a_pipeline_is_found_in_the_current_folder_and_by_its_public_name(here: Path) -> None:
    put(here / "own.yaml")
    assert find_yaml("own.yaml", "pipelines") == Path("own.yaml")
    assert find_yaml("quickstart", "pipelines") == bundled("pipelines") / "quickstart.yaml"


def test_a_name_that_is_nowhere_lists_the_choices_and_the_nearest(here: Path) -> None:
    put(here / "models" / "own_net.yaml")
    with pytest.raises(ConfigError, match=r"no 'med_tinny'.*med_tiny, .*own_net.*\. Did you mean 'med_tiny'\?"):
        find_yaml("med_tinny", "models")
