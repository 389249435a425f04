"""Heads that http.client would read half of."""

import http.client
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.download.head import HeadReader, begin


class Wire:
    """What http.client wants to see of a socket."""

    def __init__(self, data: bytes) -> None:
        raw: Any = io.BytesIO(data)
        self.reader = HeadReader(raw)

    def makefile(self, mode: str) -> HeadReader:
        return self.reader


def answered(data: bytes) -> http.client.HTTPResponse:
    wire: Any = Wire(data)
    response = http.client.HTTPResponse(wire, method="GET")
    begin(response, wire.reader)
    return response


@pytest.mark.parametrize(
    "lines",
    [
        b"Powered by nothing\r\n",
        b"Powered by\tnothing: at all\r\n",
        b": no name\r\n",
        b" folded from nowhere\r\n",
        b"Gr\xf6\xdfe: 3\r\n",
        b"From here\r\n",
        b"A: b\r\r\n",
        b"A: b\rc\r\n",
        b"A: b\n",
        b"\r\r\n",
    ],
    ids=repr,
)
def test_a_line_that_is_no_field_hides_none_behind_it(lines: bytes) -> None:
    response = answered(b"HTTP/1.1 200 OK\r\n" + lines + b"X-Robots-Tag: noai\r\nContent-Length: 3\r\n\r\nabcd")
    assert response.headers.get_all("X-Robots-Tag") == ["noai"]
    assert (response.length, response.read()) == (3, b"abc")


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"\r")).filter(bool), max_size=8))
def test_whatever_stands_before_it_an_opt_out_is_read(lines: list[bytes]) -> None:
    junk = b"".join(line + b"\r\n" for line in lines)
    response = answered(b"HTTP/1.1 200 OK\r\n" + junk + b"X-Robots-Tag: noai\r\n\r\nabc")
    assert response.headers.get_all("X-Robots-Tag", [])[-1:] == ["noai"]
    assert response.read() == b"abc"


def test_spaces_around_name_and_value_are_not_theirs() -> None:
    response = answered(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding \t:  chunked \r\nX-Robots-Tag:\r\n noai\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    assert (response.headers["X-Robots-Tag"].strip(), response.read()) == ("noai", b"abc")


def test_a_line_that_continues_what_is_no_field_goes_with_it() -> None:
    response = answered(b"HTTP/1.1 200 OK\r\nA: b\r\nnothing\r\n to see\r\nC: d\r\n e\r\n\r\n")
    assert [(name, value.split()) for name, value in response.headers.items()] == [("A", ["b"]), ("C", ["d", "e"])]


def test_the_body_is_as_it_was_sent() -> None:
    body = b"no field\r\nname : value\r\n\r\n"
    assert answered(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + body).read() == body
    chunks = b"1a ;no field\r\n" + body + b"\r\n0\r\ntrailer without a colon\r\n\r\n"
    assert len(body) == 0x1A
    assert answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks).read() == body
