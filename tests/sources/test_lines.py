"""Records of text files: the same from every record's beginning, and none lost to a broken line."""

import csv
import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capfilt.sources.lines import LOOKAHEAD, fields_of, parse, pieces


def records(data: bytes, kind: str = "csv", width: int = 2) -> list[bytes]:
    return [piece for piece, is_record in pieces(io.BytesIO(data), kind, width) if is_record]  # type: ignore[arg-type]


def values(data: bytes, kind: str = "csv") -> list[object]:
    found = [parse(piece, kind, ("a", "b")) for piece in records(data, kind)]  # type: ignore[arg-type]
    return [None if record is None else tuple(record.values()) for record in found]


def test_quoted_commas_quotes_and_line_breaks_are_inside_a_field() -> None:
    assert values(b'"x, y",1\n"say ""hi""\r\nand\n\ngo",2\r\nplain 5" wide,3\n') == [
        ("x, y", "1"),
        ('say "hi"\r\nand\n\ngo', "2"),
        ('plain 5" wide', "3"),
    ]


@pytest.mark.parametrize("line", [b'"never closed,1', b"one field", b"three,2,3", b'"closed"too early,1', b"a\0b"])
def test_a_broken_line_breaks_no_other(line: bytes) -> None:
    assert values(b"a,1\n" + line + b'\nb,2\n"c",3\n') == [("a", "1"), None, ("b", "2"), ("c", "3")]


def test_a_quote_that_closes_in_another_record_breaks_its_own_line_only() -> None:
    assert values(b'"open,1\nb,2\n"c",3\nd,4\n') == [None, ("b", "2"), ("c", "3"), ("d", "4")]


def test_a_quote_is_looked_for_in_so_many_lines_only() -> None:
    long = b'"' + b"line\n" * (LOOKAHEAD + 1) + b'end",1\n'
    assert values(long)[0] is None
    assert len(values(long)) == LOOKAHEAD + 2
    assert values(b'"' + b"line\n" * (LOOKAHEAD - 1) + b'end",1\n') == [("line\n" * (LOOKAHEAD - 1) + "end", "1")]


def test_blank_lines_are_no_rows_and_the_last_line_needs_no_end() -> None:
    assert values(b"\n\r\na,1\n\nb,2") == [("a", "1"), ("b", "2")]


def test_tsv_fields_lose_quotes_only_where_they_are_around_all_of_it() -> None:
    assert values(b'"a ""b"""\t1\n"open\t2\n5" x\t"3"\nx\n"one" and "two"\t4\n', "tsv") == [
        ('a "b"', "1"),
        ('"open', "2"),
        ('5" x', "3"),
        None,
        ('"one" and "two"', "4"),
    ]


def test_jsonl_takes_objects_only() -> None:
    deep = b"[" * 100_000
    assert values(b'{"a": 1, "b": null}\n[1]\n{"a":\n"text"\n' + deep + b'\n{"a": 2}\n', "jsonl") == [
        (1, None), None, None, None, None, (2,)
    ]  # fmt: skip


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    assert fields_of(b"caf\xe9,\xff\n", "csv") == ["caf�", "�"]


any_line = st.text(alphabet='",\n\r\tab{}: é', max_size=12).map(lambda text: text.encode())


@settings(max_examples=300, deadline=None)
@given(st.lists(any_line, max_size=30).map(b"\n".join), st.sampled_from(["csv", "tsv", "jsonl"]))
def test_pieces_are_all_the_bytes_and_a_record_is_found_again_from_its_offset(data: bytes, kind: str) -> None:
    found = list(pieces(io.BytesIO(data), kind, 2))  # type: ignore[arg-type]
    assert b"".join(piece for piece, _ in found) == data
    whole = [piece for piece, is_record in found if is_record]
    at = 0
    for number, (piece, is_record) in enumerate(found):
        if is_record:
            before = sum(1 for _, is_one in found[:number] if is_one)
            assert records(data[at:], kind) == whole[before:]
        at += len(piece)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=20))
def test_what_a_csv_writer_writes_comes_back(rows: list[tuple[str, str]]) -> None:
    rows = [(a.encode("utf-8", "ignore").decode(), b.encode("utf-8", "ignore").decode() + "!") for a, b in rows]
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    assert values(out.getvalue().encode()) == rows


@settings(max_examples=100, deadline=None)
@given(st.lists(any_line, max_size=30), st.integers(1, 5))
def test_stretches_give_the_records_of_the_whole(parts: list[bytes], rows: int) -> None:
    """What `text.cut` relies on: a stretch read by itself holds the records that the whole file has there."""
    data = b"\n".join(parts)
    found, at, starts = list(pieces(io.BytesIO(data), "csv", 2)), 0, []
    for piece, is_record in found:
        if is_record:
            starts.append(at)
        at += len(piece)
    whole = [piece for piece, is_record in found if is_record]
    bounds = [*starts[::rows], len(data)]
    cut = [record for a, b in itertools.pairwise(bounds) for record in records(data[a:b])]
    assert cut == whole
