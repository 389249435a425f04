"""`read.paths` as the paths of files: braces and globs expanded, on any file system that fsspec knows.

Knows nothing of what is in them.
"""

from collections.abc import Sequence

import fsspec
from braceexpand import braceexpand

from capfilt.errors import InputError


def expand(patterns: Sequence[str], folders: bool = False) -> list[str]:
    """Every file (or folder, with `folders`) that `patterns` name, each once, sorted within each pattern.

    Raises:
        InputError: If a pattern matches nothing.
    """
    return list(dict.fromkeys(path for pattern in patterns for braced in _braces(pattern) for path in _glob(braced, folders)))


def _braces(pattern: str) -> list[str]:
    try:
        return [str(path) for path in braceexpand(pattern, escape=False)]
    except ValueError:  # a brace that is not closed
        return [pattern]


def _glob(pattern: str, folders: bool) -> list[str]:
    filesystem, inner = fsspec.core.url_to_fs(pattern)
    fits = filesystem.isdir if folders else filesystem.isfile
    if any(sign in pattern for sign in "*?["):
        hits = sorted(str(hit) for hit in filesystem.glob(inner) if fits(hit))
    else:
        hits = [inner] if fits(inner) else []
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


def is_remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def _as_written(pattern: str, absolute: str, hit: str) -> str:
    """A relative pattern gives relative paths: chunk ids must not depend on where the working folder lies."""
    base = absolute.removesuffix(pattern.removeprefix("./"))
    return hit.removeprefix(base) if base != absolute else hit
