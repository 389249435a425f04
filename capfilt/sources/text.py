"""CSV, TSV and JSONL files: scanned once for the byte offset of every chunk, so that a chunk is read by seeking."""

import io
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from capfilt.config.read import ReadConfig
from capfilt.errors import InputError
from capfilt.plan import Chunk
from capfilt.sources import lines, names
from capfilt.sources.columns import candidates, find_columns, mapped
from capfilt.sources.cuts import Cut, Cutter
from capfilt.sources.records import Record
from capfilt.sources.streams import open_stream, read_range

HEAD_RECORDS = 1000  # of JSONL, whose keys are its columns
_WEB_ADDRESS = re.compile(r"https?://\S+", re.IGNORECASE)
_FILE_NAME = re.compile(r"[^\t\n]+\.(jpe?g|png|webp|gif|bmp)", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """`names` of the columns; `body` is the byte at which the records begin; `columns` are ours -> theirs."""

    kind: lines.LineFormat
    names: tuple[str, ...]
    body: int
    columns: Mapping[str, str]

    @property
    def width(self) -> int:
        return 0 if self.kind == "jsonl" else len(self.names)


def kind_of(path: str) -> lines.LineFormat | None:
    """By the name, None for another kind of file."""
    name = path.lower().removesuffix(".gz").removesuffix(".zst")
    endings: dict[str, lines.LineFormat] = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), None)


def layout(path: str, kind: lines.LineFormat, config: ReadConfig) -> Layout | None:
    """What the beginning of the file says; None for an empty file.

    The first line of a CSV or TSV is data where none of its fields is the name of a column and exactly one is an address
    (Conceptual Captions); its columns are then called `0`, `1`, … and of two columns the other one is the text.

    Raises:
        InputError: If a column is missing, or the file is not what its name says.
    """
    with open_stream(path) as stream:
        if kind == "jsonl":
            return _layout_jsonl(path, list(itertools.islice(_records(stream, kind), HEAD_RECORDS)), config)
        first, body = b"", 0
        for piece, is_record in lines.pieces(stream, kind, 0):
            body += len(piece)
            if is_record:
                first = piece
                break
    if not first:
        return None
    if first.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: expected UTF-8, found UTF-16. Convert the file, for example with iconv -f UTF-16 -t UTF-8")
    fields = lines.fields_of(first, kind)
    if fields is None:
        raise InputError(f"{path}: expected the names of the columns in the first line, found {_shown(first)}. Add a header")
    known = {name for found in names.KNOWN.values() for name in found} | set(mapped(config).values()) | set(config.keep_columns)
    addresses = _addresses(fields, config)
    if known.isdisjoint(fields) and len(addresses) == 1:
        found = tuple(map(str, range(len(fields))))
        by_place = {"file" if config.kind == "folder" else "url": str(addresses[0])}
        if len(fields) == 2:
            by_place["text"] = str(1 - addresses[0])
        return Layout(kind, found, 0, find_columns(config, found, path, by_place))
    columns = find_columns(config, fields, path)
    names.require(fields, config.keep_columns, path)
    return Layout(kind, tuple(fields), body, columns)


def _addresses(fields: Sequence[str], config: ReadConfig) -> list[int]:
    """Places of addresses: on the web, or, in a folder's captions file or where there are none, file names.

    So `IMG_1234.JPG` beside an address is its text.
    """
    told = list(enumerate(field.strip() for field in fields))
    on_web = [at for at, field in told if _WEB_ADDRESS.fullmatch(field)]
    files = [at for at, field in told if at not in on_web and _FILE_NAME.fullmatch(field)]
    return (files or on_web) if config.kind == "folder" else (on_web or files)


def _layout_jsonl(path: str, head: Sequence[bytes], config: ReadConfig) -> Layout | None:
    if not head:
        return None
    if head[0].lstrip().startswith(b"["):
        raise InputError(f"{path}: expected one JSON object per line, found a list. Write each entry of the list on its own line")
    parsed = [record for line in head if (record := lines.parse(line, "jsonl", ())) is not None]
    if not parsed:
        raise InputError(f"{path}: expected one JSON object per line, found {_shown(head[0])}. Correct the file")
    found = list(dict.fromkeys(name for record in parsed for name in record))
    columns = find_columns(config, found, path)
    names.require(found, config.keep_columns, path)
    return Layout("jsonl", (), 0, columns)


def cut(path: str, found: Layout, rows_per_chunk: int) -> Cut:
    """One pass over the file: every `rows_per_chunk` records make a stretch. A compressed file that breaks off is used so far.

    Raises:
        EOFError, OSError, zlib.error: If there is nothing to be read.
    """
    cutter, at = Cutter(rows_per_chunk), 0
    with open_stream(path) as stream:
        try:
            for piece, is_record in lines.pieces(stream, found.kind, found.width):
                if is_record and at >= found.body:
                    cutter.add(at, at + len(piece))
                at += len(piece)
        except (EOFError, OSError, zlib.error) as error:
            if not cutter.rows:
                raise
            return cutter.done(f"breaks off after {cutter.rows:,} rows ({error}); the rest is not read")
    return cutter.done(None)


def read(chunk: Chunk, kind: lines.LineFormat, config: ReadConfig) -> tuple[list[Record | bytes], dict[str, tuple[str, ...]]]:
    """The records of a chunk, the bytes of one that is broken; and ours -> theirs, of which the first with a value counts.

    Raises:
        InputError: If the file cannot be read or has changed.
    """
    found = None if kind == "jsonl" else layout(chunk.path, kind, config)
    columns = candidates(config) | ({ours: (theirs,) for ours, theirs in found.columns.items()} if found else {})
    fields, width = (found.names, found.width) if found else ((), 0)
    data = read_range(chunk.path, chunk.etag, chunk.offset, chunk.size)
    pieces = [piece for piece, is_record in lines.pieces(io.BytesIO(data), kind, width) if is_record]
    if len(pieces) < chunk.start + chunk.rows:
        raise InputError(
            f"{chunk.path}: expected {chunk.start + chunk.rows} rows in the {chunk.size} bytes from byte {chunk.offset}, found "
            f"{len(pieces)}. The file has changed since the run began; restore it, or start over with --fresh"
        )
    wanted = pieces[chunk.start : chunk.start + chunk.rows]
    parsed = [lines.parse(piece, kind, fields) for piece in wanted]
    return [piece if record is None else record for piece, record in zip(wanted, parsed, strict=True)], columns


def _records(stream: IO[bytes], kind: lines.LineFormat) -> Iterator[bytes]:
    return (piece for piece, is_record in lines.pieces(stream, kind, 0) if is_record)


def _shown(line: bytes) -> str:
    return repr(line[:80].decode("utf-8", "replace"))
