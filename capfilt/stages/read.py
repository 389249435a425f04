"""Read: a chunk of an input file -> row_id, uid, url, text, the carried columns, and pictures where the input has them.

Gives raw rows their names and says of each whether there is anything to work on; fetches and decodes nothing.
"""

import hashlib
import re
from typing import TYPE_CHECKING

import pyarrow as pa

from capfilt.config.read import ReadConfig
from capfilt.identity import content_hash, row_id, uid_of
from capfilt.schema import COLUMNS, READ_COLUMNS, UPSTREAM
from capfilt.sources import Rows, read_rows

if TYPE_CHECKING:
    from capfilt.plan import Chunk

_UID = re.compile(r"[0-9a-f]{32}")


def read_chunk(chunk: "Chunk", config: ReadConfig) -> pa.Table:
    """The chunk's rows with READ_COLUMNS, and `upstream` where columns are carried.

    Every row of the input is there. One without an address is `download_failed`, `bad_url`; a line that cannot be read
    `download_failed`, `bad_line`; a row of a source of pictures without one `image_invalid`, `no_image`. Texts that are not UTF-8
    get replacement characters.

    Raises:
        InputError: If the file cannot be read, has changed, or lacks a mapped or carried column.
    """
    rows = read_rows(chunk, config)
    url = [address.strip() or None if address is not None else None for address in rows.url]
    image: list[bytes | None] = rows.image if rows.image is not None else [None] * len(url)
    problems = [_problem(rows, row, url[row], image[row]) for row in range(len(url))]
    values = {
        "row_id": [row_id(chunk.chunk_id, row) for row in range(len(url))],
        "uid": [_uid(rows, row, url[row], image[row]) for row in range(len(url))],
        "url": url,
        "text": rows.text,
        "status": ["ok" if problem is None else problem[0] for problem in problems],
        "error": [None if problem is None else problem[1] for problem in problems],
        "image": [None if problem is not None else data for data, problem in zip(image, problems, strict=True)],
    }
    types = {column.name: column.type for column in COLUMNS}
    arrays = [pa.array(values[name], types[name]) for name in READ_COLUMNS]
    names = list(READ_COLUMNS)
    if rows.upstream is not None:
        arrays.append(rows.upstream)
        names.append(UPSTREAM)
    return pa.table(arrays, names=names)


def _problem(rows: Rows, row: int, url: str | None, image: bytes | None) -> tuple[str, str] | None:
    """Status and error of a row that nothing can be done with."""
    if row in rows.broken:
        return "download_failed", rows.broken[row][0]
    if rows.image is not None:
        return None if image else ("image_invalid", "no_image")
    return None if url else ("download_failed", "bad_url")


def _uid(rows: Rows, row: int, url: str | None, image: bytes | None) -> str:
    """The input's own where it has one of 32 hex digits, a hash of it where it has another; else of address and text."""
    if row in rows.broken:
        return uid_of(rows.broken[row][1], None)
    given = rows.uid[row]
    if given:
        return given if _UID.fullmatch(given) else content_hash("uid", given)
    address = url if url is not None or image is None else hashlib.sha256(image).hexdigest()
    return uid_of(address or "", rows.text[row])
