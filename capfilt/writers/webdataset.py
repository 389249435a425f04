"""Shards as WebDataset: 00000.tar with KEY.jpg, KEY.txt and KEY.json per row, beside it 00000.parquet without pictures.

The layout of img2dataset, so what reads its output reads ours. Knows nothing about where the rows come from.
"""

import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.writers.shards import shard_name

IMAGE = "image"


class WebDatasetShards:
    """Deterministic ustar: no time, no owner, rows in order. `.txt` is `caption`, `.json` every other column but the picture."""

    name = "webdataset"

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._folder = folder
        self._tar: tarfile.TarFile | None = None
        self._path = folder
        self._metadata_schema = schema.remove(schema.get_field_index(IMAGE))
        self._metadata: list[pa.Table] = []
        folder.mkdir(parents=True)

    def open(self, shard: int) -> None:
        self._path = self._folder / f"{shard_name(shard)}.tar"
        self._tar = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed by `close`)

    def add(self, table: pa.Table) -> None:
        metadata = table.drop_columns([IMAGE])
        for picture, row in zip(table[IMAGE], metadata.to_pylist(), strict=True):
            key = row["key"]
            self._member(f"{key}.jpg", picture.as_buffer().to_pybytes())
            self._member(f"{key}.txt", row["caption"].encode())
            facts = _finite({name: value for name, value in row.items() if name != "caption"})
            self._member(f"{key}.json", json.dumps(facts, ensure_ascii=False, allow_nan=False, default=str).encode())
        self._metadata.append(metadata)

    def close(self) -> list[Path]:
        assert self._tar is not None
        self._tar.close()
        self._tar = None
        beside = self._path.with_suffix(".parquet")
        pq.write_table(pa.concat_tables(self._metadata).combine_chunks(), beside, compression="zstd")
        self._metadata = []
        return [self._path, beside]

    def _member(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)  # mtime, uid and gid are 0, owner names empty
        info.size, info.mode = len(data), 0o644
        assert self._tar is not None
        self._tar.addfile(info, io.BytesIO(data))


def _finite(value: Any) -> Any:
    """JSON has no NaN: a missing score is null."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
