"""Benchmarks run seldom: what they take from capfilt must still be there."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).resolve().parents[2] / "benchmarks").glob("*.py"))


def taken(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every `from capfilt… import …`, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "capfilt":
            yield from ((str(node.module), alias.name) for alias in node.names)


def is_there(module: str, name: str) -> bool:
    if hasattr(import_module(module), name):
        return True
    try:
        import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    assert [(module, name) for module, name in taken(path) if not is_there(module, name)] == []


def test_what_is_gone_is_noticed() -> None:
    assert is_there("capfilt.config", "select")
    assert not is_there("capfilt.config.round", "SelectConfig")
