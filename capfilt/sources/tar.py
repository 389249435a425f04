"""WebDataset tars: members of one key, one after the other, are a row. Scanned once for the byte offset of every chunk.

A member's key is its path up to the first dot of its name, the rest is its ending: `00000/000000012.jpg` (WebDataset's rule).
"""

import io
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from capfilt.config.read import Img2dataset, WebDataset
from capfilt.errors import InputError
from capfilt.plan import Chunk
from capfilt.sources import names
from capfilt.sources.columns import candidates, find_columns
from capfilt.sources.cuts import Cut, Cutter
from capfilt.sources.records import Record, parse_json, to_rows
from capfilt.sources.rows import Rows
from capfilt.sources.streams import is_compressed, open_stream, read_range

HEAD_ROWS = 100  # whose endings and JSON fields are the tar's columns
BLOCK = tarfile.BLOCKSIZE
_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
_PICTURES = frozenset(names.KNOWN["image"])


@dataclass
class _Row:
    """Members of one key: ending -> bytes (None where they were not read), and the fields of the JSON."""

    key: str
    offset: int
    end: int = 0
    fields: dict[str, Any] = field(default_factory=dict)
    endings: set[str] = field(default_factory=set)


def is_tar(path: str) -> bool:
    return path.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.zst"))


def scan(path: str, config: WebDataset | Img2dataset) -> tuple[Cut, dict[str, str]]:
    """One pass over the members' headers: every `rows_per_chunk` rows make a stretch; and ours -> theirs.

    A tar that breaks off is used up to there, without the row it breaks off in.

    Raises:
        InputError: If the first rows have no picture or text, or lack a mapped or carried field.
        tarfile.TarError, EOFError, OSError, zlib.error: If there is nothing to be read.
    """
    cutter = Cutter(config.rows_per_chunk)
    seen: dict[str, None] = {}
    problem = None
    first: _Row | None = None
    last: _Row | None = None
    with open_stream(path) as stream:
        try:
            for row in _rows(stream, is_plain=not is_compressed(path), json_of=HEAD_ROWS):
                if cutter.rows < HEAD_ROWS:
                    seen |= dict.fromkeys(row.fields)
                if last is not None:
                    cutter.add(last.offset, last.end)
                first, last = first or row, row
            if first is not None and last is not None:
                has_end = is_compressed(path) or _has_end_mark(stream, last.end)
                is_whole = has_end or first.endings <= last.endings
                if is_whole:
                    cutter.add(last.offset, last.end)
                if not has_end:
                    problem = _broken_off(cutter, "no end mark")
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            if last is None:
                raise
            cutter.add(last.offset, last.end)
            problem = _broken_off(cutter, str(error))
    columns: dict[str, str] = {}
    if cutter.rows:
        columns = find_columns(config, list(seen), path)
        names.require(list(seen), config.keep_columns, path)
    return cutter.done(problem), columns


def _has_end_mark(stream: IO[bytes], end: int) -> bool:
    stream.seek(end)
    return len(stream.read(BLOCK)) == BLOCK


def _broken_off(cutter: Cutter, error: str) -> str:
    return f"breaks off after {cutter.rows:,} rows, at byte {cutter.end:,} ({error}); what comes after is not read"


def read(chunk: Chunk, config: WebDataset | Img2dataset) -> Rows:
    """The rows of a chunk, with the bytes of their pictures.

    Raises:
        InputError: If the file has changed.
    """
    data = io.BytesIO(read_range(chunk.path, chunk.etag, chunk.offset, chunk.size))
    try:
        found = [row.fields for row in _rows(data, is_plain=True)]
    except tarfile.TarError:
        found = []
    if len(found) < chunk.start + chunk.rows:
        raise InputError(
            f"{chunk.path}: expected {chunk.start + chunk.rows} rows in the {chunk.size} bytes from byte {chunk.offset}, found "
            f"{len(found)}. The file has changed since the run began; restore it, or start over with --fresh"
        )
    records: list[Record | bytes] = [*found[chunk.start : chunk.start + chunk.rows]]
    return to_rows(records, candidates(config), config)


def _rows(stream: IO[bytes], *, is_plain: bool, json_of: int | None = None) -> Iterator[_Row]:
    """The rows of a tar. With `json_of`, only the JSON of that many rows is read, and nothing else."""
    row: _Row | None = None
    count = 0
    with tarfile.open(fileobj=stream, mode="r:" if is_plain else "r|") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it would remember every header
            parts = _KEY.fullmatch(member.name) if member.isfile() else None
            if parts is None:
                continue
            if row is None or row.key != parts[1]:
                if row is not None:
                    yield row
                count += 1
                row = _Row(parts[1], member.offset)
            ending = parts[2].lower()
            row.endings.add(ending)
            if json_of is None or (ending == "json" and count <= json_of):
                file = tar.extractfile(member)
                data = file.read() if file is not None else b""
                if len(data) < member.size:
                    raise tarfile.ReadError("unexpected end of data")
                _add(row, ending, data)
            else:
                row.fields[ending] = None
            row.end = member.offset_data + -(-member.size // BLOCK) * BLOCK
        if row is not None:
            yield row


def _add(row: _Row, ending: str, data: bytes) -> None:
    """A member's bytes; the fields of a JSON do not replace members, and none of them is a picture."""
    if ending == "json":
        fields = parse_json(data) or {}
        row.fields = {name: value for name, value in fields.items() if name not in _PICTURES} | row.fields
    else:
        row.fields[ending] = data
