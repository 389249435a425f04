"""img2dataset's modules one by one."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from capfilt.download import img2dataset_parts

LOOK = """
import os, sys
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
from capfilt.download.img2dataset_parts import load

classes = load("downloader").Downloader, load("resizer").Resizer
print("torch" in sys.modules, "img2dataset" in sys.modules)
import img2dataset
from img2dataset.downloader import Downloader

print(callable(img2dataset.download), Downloader is classes[0])
"""


def test_a_module_comes_without_the_programme_and_the_package_is_whole_afterwards() -> None:
    found = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)

    assert found.stdout.split() == ["False", "False", "True", "True"]


def test_no_thread_meets_the_package_that_another_one_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, img2dataset_parts.PACKAGE, raising=False)
    at_work: list[str] = []
    seen: list[int] = []

    def slowly(name: str) -> ModuleType:
        at_work.append(name)
        seen.append(len(at_work))
        time.sleep(0.02)
        at_work.remove(name)
        return ModuleType(name)

    monkeypatch.setattr(img2dataset_parts, "import_module", slowly)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(img2dataset_parts.load, ["downloader", "resizer"] * 4))

    assert [module.__name__ for module in loaded] == ["img2dataset.downloader", "img2dataset.resizer"] * 4
    assert seen == [1] * 8
    assert img2dataset_parts.PACKAGE not in sys.modules
