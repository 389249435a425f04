"""A finished run of pipelines/debug.yaml, made once: the executor in this process, the folder `runs/debug` of a fresh place.

It belongs to all tests of this folder, in whatever order: what writes into a run does so in a copy of its own.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from capfilt import cli
from capfilt.config.load import load_pipeline
from capfilt.rounds import run_pipeline
from capfilt.run.progress import SilentProgress

Called = tuple[int, str, str]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """To be read only; that all tests did so is checked at the end."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run_pipeline(load_pipeline("debug"), source=Path("debug.yaml"), progress=SilentProgress())
    run = place / "runs" / "debug"
    before = _hashes(run)
    yield run
    assert _hashes(run) == before, "a test wrote into the run that all tests share; it should take `own`"


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, for one test alone."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "debug"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, own: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Exit code, output and errors of a command, run in this process beside `runs/debug`, the test's own copy."""

    def called(*arguments: str) -> Called:
        monkeypatch.chdir(own.parent.parent)
        monkeypatch.setattr(sys, "argv", ["capfilt", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return called


def _hashes(run: Path) -> dict[str, str]:
    return {str(path): sha256(path.read_bytes()).hexdigest() for path in run.rglob("*") if path.is_file()}
