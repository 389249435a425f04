"""A finished run of pipelines/debug.yaml, made once: the executor in this process, the folder `runs/debug` of a fresh place."""

from pathlib import Path

import pytest

from capfilt.config.load import load_pipeline
from capfilt.rounds import run_pipeline
from capfilt.run.progress import SilentProgress


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run_pipeline(load_pipeline("debug"), source=Path("debug.yaml"), progress=SilentProgress())
    return place / "runs" / "debug"
