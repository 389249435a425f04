"""The benchmarks' own modules: they are scripts, found beside each other."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
