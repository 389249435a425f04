"""The house files keep fitting the package: CI's overrides, the pins, what the wheel carries."""

import re
import shlex
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

from capfilt.config.load import load_pipeline

ROOT = Path(__file__).parent.parent


def test_the_overrides_of_ci_fit_the_quickstart() -> None:
    words = shlex.split((ROOT / ".ci" / "run").read_text(encoding="utf-8"), comments=True)
    overrides = [value for flag, value in pairwise(words) if flag == "--set"]
    assert len(overrides) > 5
    reduced = load_pipeline("quickstart", overrides)
    assert reduced.miniweb is not None
    assert reduced.miniweb.pictures <= 300


def test_ci_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)


def test_every_dependency_is_pinned_and_torch_as_tested() -> None:
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert pins["torch"] == "2.13.0"
    assert not any("+" in version or "/" in version for version in pins.values())
    assert "torchvision" not in pins
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["faiss-cpu"]]
    names = {re.split(r"[\[<>=~ ]", line)[0].lower().replace("_", "-") for line in wanted}
    assert names - {name.lower().replace("_", "-") for name in pins} == set()


def test_make_without_a_target_lists_the_targets() -> None:
    told = subprocess.run(["make", "-s", "-C", str(ROOT)], capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in told for target in ("venv", "demo", "test", "lint", "bench", "docs", "clean"))
