"""The files of a source, each scanned once: how it is cut, its columns, and an etag that stands for its content.

What was scanned is the index's to keep (capfilt/run/index.py).
"""

import posixpath
import tarfile
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, BinaryIO, assert_never

import fsspec
import pyarrow as pa

from capfilt.config.read import Folder, Img2dataset, ParquetImages, ReadConfig, UrlList, WebDataset
from capfilt.config.train import CapfiltShards, Shards
from capfilt.errors import InputError, RunStateError
from capfilt.identity import content_hash
from capfilt.plan import InputFile
from capfilt.sources import folder, names, parquet, places, tar, text
from capfilt.sources.carried import carried, united
from capfilt.sources.columns import find_columns
from capfilt.sources.cuts import Cut

EDGE_BYTES = 1 << 20  # of both ends of a local file: the last MiB of Parquet holds the statistics of every column chunk


class Unreadable(InputError):
    """A file that is not what its name says, or is damaged."""


def find(config: ReadConfig) -> list[str]:
    """The paths of a source's files (of folders whose texts stand beside the pictures, the folders), in order, each once.

    Raises:
        InputError: If a path matches nothing, or a folder holds no output of img2dataset with pictures.
    """
    match config:
        case UrlList() | ParquetImages() | WebDataset():
            return places.expand(config.paths)
        case Img2dataset():
            return [path for place in places.expand(config.paths, folders=True) for path in _img2dataset(place)]
        case Folder():
            found = places.expand(config.paths, folders=True)
            return [folder.captions_file(place, config) or place for place in found]
        case _ as unreachable:
            assert_never(unreachable)


def _img2dataset(place: str) -> list[str]:
    """Tars, Parquet with pictures, or the folders of the format `files`; the Parquet beside tars and folders has no pictures."""
    filesystem, inner = fsspec.core.url_to_fs(place)
    inside: list[dict[str, Any]] = sorted(filesystem.ls(inner, detail=True), key=lambda info: str(info["name"]))
    paths = {posixpath.join(place, posixpath.basename(str(i["name"]).rstrip("/"))): i["type"] == "directory" for i in inside}
    tars = [path for path, is_folder in paths.items() if not is_folder and tar.is_tar(path)]
    folders = [path for path, is_folder in paths.items() if is_folder and posixpath.basename(path).isdigit()]
    tables = [path for path, is_folder in paths.items() if not is_folder and path.endswith(".parquet")]
    if not (tars or folders or tables):
        found = ", ".join(posixpath.basename(path) for path in list(paths)[:5]) or "nothing"
        raise InputError(
            f"read.paths: expected an output folder of img2dataset (00000.tar, 00000.parquet or 00000/) at `{place}`, "
            f"found {found}. Name its output_folder; tfrecord is not read"
        )
    return tars or folders or tables


def is_folder(path: str) -> bool:
    """Whether `find` gave a folder, by its name: no source's file is without an ending."""
    filesystem, inner = fsspec.core.url_to_fs(path)
    return bool(filesystem.isdir(inner))


def describe(path: str, config: ReadConfig) -> tuple[InputFile, pa.Schema | None]:
    """A file as the index keeps it, and the schema of a Parquet file.

    Raises:
        Unreadable: If it cannot be read; with `on_bad_file: skip` it is given back without rows instead.
        InputError: If it lacks a column or is no file for this kind of source.
    """
    size, etag = stat(path)
    try:
        cut, columns, schema = _cut(path, size, config)
    except (OSError, EOFError, zlib.error, tarfile.TarError, pa.ArrowException) as error:
        what = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        if config.on_bad_file == "skip":
            return InputFile(path, size, etag, (), problem=f"is left out: {what}"), None
        raise Unreadable(f"`{path}` ({what})") from None
    return InputFile(path, size, etag, cut.rows, cut.offsets, columns=tuple(columns.items()), problem=cut.problem), schema


def _cut(path: str, size: int, config: ReadConfig) -> tuple[Cut, dict[str, str], pa.Schema | None]:
    if tar.is_tar(path) and isinstance(config, WebDataset | Img2dataset):
        return (*tar.scan(path, config), None) if size else (Cut((), ()), {}, None)
    kind = text.kind_of(path)
    if kind is not None and isinstance(config, UrlList | Folder):
        found = text.layout(path, kind, config)
        return (text.cut(path, found, config.rows_per_chunk), dict(found.columns), None) if found else (Cut((), ()), {}, None)
    if isinstance(config, WebDataset) or not (path.lower().endswith((".parquet", ".pq")) or _begins(path, b"PAR1")):
        expected = {
            "url_list": "Parquet, CSV, TSV or JSONL (the last three also .gz or .zst)",
            "parquet_images": "Parquet",
            "webdataset": "a tar (.tar, .tar.gz, .tgz, .tar.zst)",
            "img2dataset": "a tar or Parquet",
            "folder": "a captions file in CSV, TSV, JSONL or Parquet",
        }[config.kind]
        raise InputError(f"read.paths: expected {expected}, found `{path}`. Name other files or another `read.kind`")
    with fsspec.open(path, "rb") as stream:
        groups, schema = parquet.describe(stream)
    columns = find_columns(config, schema.names, path)
    names.require(schema.names, config.keep_columns, path)
    return Cut(groups, ()), columns, schema


def _begins(path: str, magic: bytes) -> bool:
    with fsspec.open(path, "rb") as stream:
        return bool(stream.read(len(magic)) == magic)


def scan(config: ReadConfig, known: Sequence[InputFile] | None = None) -> list[InputFile]:
    """The `known` files in their order, then those that are new; a known file is not scanned again.

    A known file that was empty or left out and has changed is new.

    Raises:
        InputError: If a pattern matches nothing, a file lacks a column, files cannot be read (names them all), or the types of a
            carried column do not go together.
        RunStateError: If a known file has changed or is gone.
    """
    paths = find(config)
    before: dict[str, list[InputFile]] = {path: [] for path in paths}
    for file in known or ():
        if file.path not in before:
            raise _changed(file, "none")
        before[file.path].append(file)
    new: list[InputFile] = []
    outdated: set[str] = set()
    bad: list[Unreadable] = []
    types: list[tuple[str, pa.StructType]] = []  # of the carried columns of new files

    def described(path: str) -> InputFile:
        file, schema = describe(path, config)
        if file.rows:
            types.append((path, carried(config, schema)))
        return file

    for path, old in before.items():
        try:
            if is_folder(path):
                assert isinstance(config, Folder | Img2dataset)
                parts = folder.describe(path, config, old)[len(old) :]
                types += [(path, carried(config)) for part in parts if part.rows]
                new += parts
            elif not old:
                new.append(described(path))
            elif (now := stat(path)) != (old[0].size, old[0].etag):
                if old[0].rows:
                    raise _changed(old[0], f"{now[0]} bytes, etag {now[1]}")
                outdated.add(path)
                new.append(described(path))
        except Unreadable as problem:
            bad.append(problem)
    if bad:
        raise InputError(
            f"read.paths: expected readable files, found {len(bad)} of {len(paths)} unreadable: {'; '.join(map(str, bad))}. "
            "Repair or remove them, or leave them out with read.on_bad_file: skip"
        )
    kept = [file for file in known or () if file.path not in outdated]
    if config.keep_columns and types:
        united([*_carried(kept, config), *types])
    return [*kept, *new]


def _carried(known: Sequence[InputFile], config: ReadConfig) -> list[tuple[str, pa.StructType]]:
    """The carried columns of files that were scanned at an earlier start."""
    found = []
    for file in (file for file in known if file.rows):
        schema = None
        if not (file.names or file.offsets):  # which folders, text files and tars have
            with fsspec.open(file.path, "rb") as stream:
                schema = parquet.describe(stream)[1]
        found.append((file.path, carried(config, schema)))
    return found


def _changed(old: InputFile, found: str) -> RunStateError:
    return RunStateError(
        f"inputs.parquet: expected the input `{old.path}` as the run first saw it ({old.size} bytes, etag {old.etag}), "
        f"found {found}. Put the file back, begin again with --fresh, or write to another `output`"
    )


def content_of(config: Shards) -> str | None:
    """A hash of the sizes and etags of all files, in order, without their rows; None where a path matches nothing."""
    try:
        paths = places.expand(config.paths) if isinstance(config, CapfiltShards) else find(config)
        return content_hash(*(f"{size} {etag}" for path in paths for size, etag in _stats(path, config)), size=8)
    except (InputError, OSError):
        return None


def _stats(path: str, config: Shards) -> list[tuple[int, str]]:
    if isinstance(config, Img2dataset) and is_folder(path):
        return [(part.size, part.etag) for part in folder.describe(path, config, ())]
    return [stat(path)]


def stat(path: str) -> tuple[int, str]:
    """Size and etag: an object store's own; of a local file from content, so that a copied input keeps its chunk ids."""
    filesystem, inner = fsspec.core.url_to_fs(path)
    info: dict[str, Any] = filesystem.info(inner)
    size = int(info["size"])
    for name in ("ETag", "etag", "md5Hash"):
        if info.get(name):
            return size, str(info[name]).strip('"')
    with filesystem.open(inner, "rb") as file:
        return size, _edges(file, size)


def _edges(file: BinaryIO, size: int) -> str:
    digest = blake2b(size.to_bytes(8, "little"), digest_size=8)
    file.seek(0)
    digest.update(file.read(EDGE_BYTES))
    file.seek(max(0, size - EDGE_BYTES))
    digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()
