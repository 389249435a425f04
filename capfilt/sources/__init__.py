"""Where rows come from: how the files of a source are found and cut (`scan.py`), and how one chunk is read.

One file per format: parquet, text (CSV, TSV, JSONL), tar, folder. Knows nothing of downloads, of the pool's tables or of runs.
"""

import posixpath

from capfilt.config.read import Folder, Img2dataset, ParquetImages, ReadConfig, UrlList, WebDataset
from capfilt.errors import ContractError
from capfilt.plan import Chunk
from capfilt.sources import folder, parquet, tar, text
from capfilt.sources.columns import find_columns
from capfilt.sources.records import to_rows
from capfilt.sources.rows import Rows

__all__ = ["Rows", "read_rows"]


def read_rows(chunk: Chunk, config: ReadConfig) -> Rows:
    """The raw rows of a chunk.

    Raises:
        InputError: If the file cannot be read, has changed or lacks a column.
    """
    match config:
        case Folder() | Img2dataset() if chunk.names:
            return folder.read(chunk, config)
        case WebDataset() | Img2dataset() if tar.is_tar(chunk.path):
            return tar.read(chunk, config)
        case Folder():
            return _captioned(chunk, config)
        case UrlList() if (kind := text.kind_of(chunk.path)) is not None:
            return to_rows(*text.read(chunk, kind, config), config)
        case UrlList() | ParquetImages() | Img2dataset():
            return parquet.read(chunk, config, lambda found: find_columns(config, found, chunk.path))
        case _:
            raise ContractError(f"expected a file of `read.kind: {config.kind}`, found the chunk {chunk}")


def _captioned(chunk: Chunk, config: Folder) -> Rows:
    """A chunk of a captions file, with the pictures it names."""
    root = chunk.path.removesuffix("/" + config.captions) if config.captions else posixpath.dirname(chunk.path)
    kind = text.kind_of(chunk.path)
    if kind is None:
        rows = parquet.read(chunk, config, lambda found: find_columns(config, found, chunk.path))
    else:
        rows = to_rows(*text.read(chunk, kind, config), config)
    return folder.with_pictures(rows, root)
