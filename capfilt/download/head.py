"""The head of an answer as browsers read it: interim answers passed over, and no field lost to a malformed line beside it.

http.client stops reading fields at the first line that is none, and an opt-out or the length of the body may stand behind it.
Bounds no bytes and no time; the wire below does.
"""

import http.client
import io
import re

from capfilt.download.outcome import FetchError

_INTERIM_ANSWERS = 20
_FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]+)[ \t]*:(.*)", re.DOTALL)


class HeadReader(io.BufferedReader):
    """Lines of heads mended as they are read, up to the end of the final one; whatever follows is as it was sent."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw, 65_536)
        self.is_in_head = True
        self._is_at_status = True
        self._may_fold = False  # whether a line that begins with a space continues something

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if not self.is_in_head:
            return line
        if self._is_at_status:
            self._is_at_status = self._may_fold = False
            return line
        while line not in (b"\r\n", b"\n", b""):
            fields = self._fields(line)
            if fields:
                return fields
            line = super().readline(size)
        self._is_at_status = True
        return line

    def _fields(self, line: bytes) -> bytes:
        """What a line holds of fields, each on a line of its own: for the parser a bare CR ends a line, too."""
        kept = b""
        for piece in line.rstrip(b"\r\n").split(b"\r"):
            if piece[:1] in (b" ", b"\t"):
                kept += piece + b"\r\n" if self._may_fold else b""
                continue
            found = _FIELD.match(piece)
            self._may_fold = found is not None
            if found is not None:
                kept += found[1] + b": " + found[2].strip(b" \t") + b"\r\n"
        return kept


def begin(response: http.client.HTTPResponse, reader: HeadReader) -> None:
    """Read the head of the final answer. http.client passes over 100 only; 103 (Early Hints) and 102 are no answers either.

    Raises:
        FetchError: `header_too_large`, where the interim answers do not end.
    """
    for _ in range(_INTERIM_ANSWERS):
        response.begin()
        if not 100 <= response.status < 200 or response.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            reader.is_in_head = False
            return
        response.headers = response.msg = None  # type: ignore[assignment]  # has it read on
    raise FetchError("header_too_large")
