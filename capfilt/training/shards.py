"""Shards on disk as chunks of (picture, texts): those that `write` made, Parquet with pictures, WebDataset, img2dataset.

Knows nothing of shuffling, batches or networks; which columns and endings there are is the sources' knowledge.
"""

from collections.abc import Iterator
from typing import BinaryIO, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.config.read import ParquetImages
from capfilt.config.train import CapfiltShards, Shards
from capfilt.errors import InputError
from capfilt.identity import content_hash
from capfilt.plan import Chunk, make_chunks
from capfilt.schema import misfit_of_pairs, texts_of
from capfilt.sources import read_rows
from capfilt.sources.scan import scan

Row = tuple[bytes, list[str]]
"""An encoded picture, and its texts."""
IMAGE, TEXTS = "image", "all_captions"


class ShardReader:
    """The chunks of all shards, and the rows of one. Only footers and headers are read before a chunk is.

    Raises:
        InputError: If a path matches nothing, a file cannot be read, lacks a column or has no row.
    """

    def __init__(self, config: Shards) -> None:
        self._config = config
        self._source = _as_source(config) if isinstance(config, CapfiltShards) else config
        found = scan(self._source)
        self.chunks: tuple[Chunk, ...] = make_chunks(self._source, found)
        if not self.chunks:
            raise InputError(
                f"pretrain.web: expected rows, found none in {len(found)} file(s) at {', '.join(config.paths)}. Name other files"
            )
        self.content: str = content_hash(*(f"{chunk.etag} {chunk.first_row} {chunk.rows}" for chunk in self.chunks))

    def rows(self, chunk: Chunk) -> list[Row]:
        """Those with a picture and at least one text that is not blank, in their order."""
        if isinstance(self._config, CapfiltShards):
            found = _own_rows(chunk)
        else:
            rows = read_rows(chunk, self._source)
            images = rows.image if rows.image is not None else [None] * len(rows.text)
            found = [(image or b"", texts_of(text)) for image, text in zip(images, rows.text, strict=True)]
        return [(image, texts) for image, texts in found if image and texts]

    def texts(self) -> Iterator[str]:
        """All texts, in the files' order."""
        for chunk in self.chunks:
            for _, texts in self.rows(chunk):
                yield from texts


def _as_source(config: CapfiltShards) -> ParquetImages:
    return ParquetImages(kind="parquet_images", paths=config.paths, columns={"image": IMAGE, "text": TEXTS})


def _own_rows(chunk: Chunk) -> list[Row]:
    try:
        with fsspec.open(chunk.path, "rb") as stream:
            group = pq.ParquetFile(cast(BinaryIO, stream)).read_row_group(chunk.row_group, columns=[IMAGE, TEXTS])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{chunk.path}: expected a readable shard, found {error}. Restore the file") from None
    misfit = misfit_of_pairs(group.schema, (IMAGE, TEXTS))
    if misfit is not None:
        raise InputError(f"pretrain.web: {misfit} of {chunk.path}. Write it so, or name other files")
    table = group.slice(chunk.start, chunk.rows)
    rows = zip(table[IMAGE].to_pylist(), table[TEXTS].to_pylist(), strict=True)
    return [(image or b"", texts_of(texts)) for image, texts in rows]
