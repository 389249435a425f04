"""What every source gives: the raw values of a chunk, one list per column of ours."""

from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """Lists of one length. `file` is the name of the picture that a captions file gives; `image` holds bytes as they stand in the
    source and is None for a source of addresses.

    `broken` names the rows that could not be read: row -> (closed code, what stands in their place in the file).
    `upstream` has the carried columns.
    """

    url: list[str | None]
    text: list[str | None]
    uid: list[str | None]
    file: list[str | None]
    image: list[bytes | None] | None = None
    upstream: pa.StructArray | None = None
    broken: dict[int, tuple[str, bytes]] = field(default_factory=dict)
