"""Folders of pictures: texts in a .txt (fields in a .json) beside each picture, or in a captions file that names the pictures.

Of a folder without captions file the index keeps the names of the pictures, so that those that come later add chunks.
"""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import fsspec

from capfilt.config.read import Folder, Img2dataset
from capfilt.errors import InputError, RunStateError
from capfilt.identity import content_hash
from capfilt.plan import Chunk, InputFile
from capfilt.sources import names
from capfilt.sources.columns import candidates, mapped
from capfilt.sources.records import Record, parse_json, to_rows
from capfilt.sources.rows import Rows

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
BESIDE = (".txt", ".json")
HEAD_ROWS = 20  # whose JSON fields are the columns
CAPTIONS = tuple(f"{stem}.{ending}" for stem in ("metadata", "captions") for ending in ("csv", "tsv", "jsonl", "parquet"))


def captions_file(folder: str, config: Folder) -> str | None:
    """Path of the folder's captions file, None where texts stand beside the pictures.

    Raises:
        InputError: If the one that the config names is not there.
    """
    filesystem, inner = fsspec.core.url_to_fs(folder)
    known = [config.captions] if config.captions is not None else CAPTIONS
    there = next((name for name in known if filesystem.isfile(posixpath.join(inner, name))), None)
    if there is None and config.captions is not None:
        raise InputError(
            f"read.captions: expected the captions file `{posixpath.join(folder, config.captions)}`, found none. "
            "Correct the name, which is inside each folder of read.paths"
        )
    return None if there is None else posixpath.join(folder, there)


def sizes(folder: str) -> dict[str, int]:
    """Size of every picture, text and JSON below the folder, by its path inside."""
    filesystem, inner = fsspec.core.url_to_fs(folder)
    inner = inner.rstrip("/")
    found: Mapping[str, Mapping[str, Any]] = filesystem.find(inner, detail=True)
    inside = {posixpath.relpath(path, inner): int(info["size"]) for path, info in found.items()}
    return {name: size for name, size in inside.items() if name.lower().endswith((*PICTURES, *BESIDE))}


def describe(folder: str, config: Folder | Img2dataset, known: Sequence[InputFile]) -> list[InputFile]:
    """The known parts of the folder as they are, and one part more for pictures that are new.

    Raises:
        InputError: If there are no texts, or a mapped or carried field is missing.
        RunStateError: If a picture or text of a known part has changed or is gone.
    """
    inside = sizes(folder)
    for part in known:
        gone = [name for name in part.names if name not in inside]
        if gone or _etag(part.names, inside) != part.etag:
            found = f"`{gone[0]}` gone" if gone else "other files or sizes"
            raise RunStateError(
                f"inputs.parquet: expected the {len(part.names):,} pictures of `{folder}` and what stands beside them as the run "
                f"first saw it, found {found}. Put them back, begin again with --fresh, or write to another `output`"
            )
    old = {name for part in known for name in part.names}
    new = tuple(sorted(name for name in inside if name.lower().endswith(PICTURES) and name not in old))
    if known and not new:
        return list(known)
    problem = None if new else f"holds no picture ({', '.join(PICTURES)})"
    size = sum(inside[name] for name in new)
    parts = (len(new),) if new else ()
    columns = _columns(folder, config, new, inside) if new else {}
    part = InputFile(folder, size, _etag(new, inside), parts, names=new, columns=tuple(columns.items()), problem=problem)
    return [*known, part]


def _columns(folder: str, config: Folder | Img2dataset, pictures: Sequence[str], inside: Mapping[str, int]) -> dict[str, str]:
    """Ours -> theirs in what stands beside the pictures."""
    beside = [name for picture in pictures for name in _beside(picture) if name in inside]
    head = contents(folder, [name for name in beside if name.endswith(".json")][:HEAD_ROWS])
    found = dict.fromkeys(["txt"] if any(name.endswith(".txt") for name in beside) else [])
    for data in head.values():
        found |= dict.fromkeys(parse_json(data) or {})
    columns = names.find(mapped(config), ("text",), ("url", "uid"), list(found), f"{folder}, beside the pictures")
    names.require(list(found), config.keep_columns, folder)
    return columns


def _etag(pictures: Sequence[str], inside: Mapping[str, int]) -> str:
    """From names and sizes: reading every picture to know whether it changed would cost as much as the run's first stage."""
    files = sorted({name for picture in pictures for name in (picture, *_beside(picture)) if name in inside})
    return content_hash(*(f"{name}\n{inside[name]}" for name in files), size=8)


def _beside(picture: str) -> tuple[str, ...]:
    stem = posixpath.splitext(picture)[0]
    return tuple(stem + ending for ending in BESIDE)


def read(chunk: Chunk, config: Folder | Img2dataset) -> Rows:
    """The rows of a chunk of a folder whose texts stand beside the pictures."""
    found = contents(chunk.path, [name for picture in chunk.names for name in (picture, *_beside(picture))])
    records: list[Record | bytes] = []
    for picture in chunk.names:
        text, fields = (found.get(name) for name in _beside(picture))
        records.append({**(parse_json(fields or b"") or {}), "txt": text})
    rows = to_rows(records, candidates(config), config)
    return replace(rows, image=[found.get(picture) for picture in chunk.names])


def with_pictures(rows: Rows, root: str) -> Rows:
    """Rows of a captions file with the bytes of the pictures below `root` that it names."""
    found = contents(root, [name for name in rows.file if name])
    return replace(rows, image=[found.get(name) if name else None for name in rows.file])


def contents(root: str, wanted: Sequence[str]) -> dict[str, bytes]:
    """Bytes of the files `wanted` below `root`; those that are not there, or lie outside, are left out."""
    filesystem, inner = fsspec.core.url_to_fs(root)
    paths = {name: path for name in dict.fromkeys(wanted) if (path := _inside(inner, name)) is not None}
    plain = [path for path in paths.values() if not any(sign in path for sign in "*?[")]
    found: dict[str, Any] = filesystem.cat(plain, on_error="return") if plain else {}
    for path in set(paths.values()) - set(plain):  # `cat` would take these for patterns
        try:
            found[path] = filesystem.cat_file(path)
        except (FileNotFoundError, IsADirectoryError):
            continue
    by_path = {path: data for path, data in found.items() if isinstance(data, bytes)}
    return {name: by_path[path] for name, path in paths.items() if path in by_path}


def _inside(root: str, name: str) -> str | None:
    """A captions file is a stranger's: it must not name files elsewhere."""
    path = posixpath.normpath(posixpath.join(root, name))
    return path if path.startswith(root.rstrip("/") + "/") else None
