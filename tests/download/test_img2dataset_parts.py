"""img2dataset's modules one by one."""

import subprocess
import sys

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
