"""The names that programs may rely on. A change here is a change of the interface: it belongs in CHANGELOG.md."""

import subprocess
import sys

import pytest

import capfilt

PUBLIC = [
    "MED",
    "SOHO",
    "Blip2",
    "ClipCap",
    "CoCa",
    "Model",
    "Pipeline",
    "QFormer",
    "__version__",
    "load_model",
    "load_pipeline",
    "run_pipeline",
    "write_report",
]


def test_the_public_names_are_these() -> None:
    assert capfilt.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_there_and_explained(name: str) -> None:
    found = getattr(capfilt, name)
    assert found if name == "__version__" else found.__doc__


def test_a_wrong_name_is_told_the_right_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'caption'; it has MED, SOHO, Blip2"):
        capfilt.caption  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, capfilt; print([name for name in ('torch', 'ray', 'pyarrow', 'pydantic', 'PIL') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "[]"
