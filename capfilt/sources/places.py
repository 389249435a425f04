"""`read.paths` as the paths of files: braces and globs expanded, on any file system that fsspec knows.

Knows nothing of what is in them.
"""

from collections.abc import Sequence
from typing import Any

import fsspec
from braceexpand import braceexpand

from capfilt.errors import InputError


def expand(patterns: Sequence[str], folders: bool = False) -> list[str]:
    """Every file (or folder, with `folders`) that `patterns` name, each once, sorted within each pattern.

    Raises:
        InputError: If a pattern matches nothing.
    """
    return list(dict.fromkeys(path for pattern in patterns for braced in braces(pattern) for path in _glob(braced, folders)))


def braces(pattern: str) -> list[str]:
    """The patterns without braces that one with braces stands for."""
    try:
        return [str(path) for path in braceexpand(pattern, escape=False)]
    except ValueError:  # a brace that is not closed
        return [pattern]


def _glob(pattern: str, folders: bool) -> list[str]:
    try:
        filesystem, inner = fsspec.core.url_to_fs(pattern)
        hits = _hits(filesystem, inner, folders)
    except Exception as problem:  # each store has errors of its own: no library, no credentials, no answer
        if not is_remote(pattern):
            raise
        raise InputError(
            f"read.paths: expected an address that fsspec can list, found `{pattern}` ({type(problem).__name__}: {problem}). "
            "Correct it, or give what the message asks for"
        ) from problem
    if not hits:
        what = "folder" if folders else "file"
        other = filesystem.exists(inner) and not any(sign in pattern for sign in "*?[")
        found = ("a file" if folders else "a folder") if other else "none"
        raise InputError(
            f"read.paths: expected at least one {what} at `{pattern}`, found {found}. Check the path and its pattern"
        )
    if is_remote(pattern):
        return [str(filesystem.unstrip_protocol(hit)) for hit in hits]
    return hits if pattern.startswith("/") else [_as_written(pattern, inner, hit) for hit in hits]


def _hits(filesystem: Any, inner: str, folders: bool) -> list[str]:
    fits = filesystem.isdir if folders else filesystem.isfile
    is_named_so = "[" in inner and fits(inner)  # a file `photos[1].parquet`
    if any(sign in inner for sign in "*?[") and not is_named_so:
        return sorted(str(hit) for hit in filesystem.glob(inner) if fits(hit))
    return [inner] if fits(inner) else []


def is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def _as_written(pattern: str, absolute: str, hit: str) -> str:
    """A relative pattern gives relative paths: chunk ids must not depend on where the working folder lies."""
    base = absolute.removesuffix(pattern.removeprefix("./"))
    return hit.removeprefix(base) if base != absolute else hit
