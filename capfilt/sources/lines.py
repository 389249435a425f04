"""CSV, TSV and JSONL cut into records, line by line, so that a record can be found again by its byte offset.

The records of a file are the same whether it is read whole or from any record's beginning. A line that is no record is one of its
own, broken: nothing is lost and no crash. Knows nothing of files and columns.

CSV   fields in double quotes may hold commas, doubled quotes and line breaks. A quote that is not closed within LOOKAHEAD lines,
      or whose record has another number of fields than the header, breaks its first line only.
TSV   no tab or line break inside a field; a field wholly in double quotes loses them.
JSONL one object per line.
"""

import csv
import io
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, assert_never

from capfilt.sources.records import Record, parse_json

LineFormat = Literal["csv", "tsv", "jsonl"]
LOOKAHEAD = 64
BOM = b"\xef\xbb\xbf"
_BLANK = (b"\n", b"\r\n", b"\r")


def pieces(lines: Iterable[bytes], kind: LineFormat, width: int) -> Iterator[tuple[bytes, bool]]:
    """Every byte of `lines` in pieces: a record's bytes and True, or a blank line and False.

    Args:
        width: Fields of a record of CSV, 0 for any.
    """
    ahead: deque[bytes] = deque()
    source = iter(lines)
    while True:
        line = ahead.popleft() if ahead else next(source, b"")
        if not line:
            return
        if line in _BLANK:
            yield line, False
        elif kind == "csv" and b'"' in line:
            record = _quoted(line, ahead, source, width)
            for _ in range(len(record) - 1):
                ahead.popleft()
            yield b"".join(record), True
        else:
            yield line, True


def _quoted(first: bytes, ahead: deque[bytes], source: Iterator[bytes], width: int) -> list[bytes]:
    """The lines of the record that begins with `first`; what was looked at beyond it waits in `ahead`."""
    taken = [first]

    def feed() -> Iterator[str]:
        yield _text(first)
        for number in range(LOOKAHEAD - 1):
            if number == len(ahead):
                line = next(source, b"")
                if not line:
                    return
                ahead.append(line)
            taken.append(ahead[number])
            yield _text(ahead[number])

    try:
        fields = next(csv.reader(feed(), strict=True), [])
    except csv.Error:
        return taken[:1]
    return taken if not width or len(fields) == width else taken[:1]


def fields_of(record: bytes, kind: Literal["csv", "tsv"]) -> list[str] | None:
    """The fields of a record, None where it cannot be read."""
    text = _text(record.removeprefix(BOM))
    if kind == "tsv":
        return [_unquoted(field) for field in text.rstrip("\r\n").split("\t")]
    try:
        found = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        return None
    return found[0] if len(found) == 1 else None


def parse(record: bytes, kind: LineFormat, names: tuple[str, ...]) -> Record | None:
    """A record by the file's `names` of columns, None for a broken one."""
    match kind:
        case "jsonl":
            return parse_json(record.removeprefix(BOM))
        case "csv" | "tsv":
            fields = fields_of(record, kind)
            return dict(zip(names, fields, strict=True)) if fields is not None and len(fields) == len(names) else None
        case _ as unreachable:
            assert_never(unreachable)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    is_quoted = len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if is_quoted else field
