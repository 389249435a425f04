"""Caption: image -> `captions` gains n synthetic texts per healthy row."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from capfilt.captioners import Caption, Captioner
from capfilt.config.round import CaptionConfig
from capfilt.identity import row_seed
from capfilt.images import ImageError, decode_rgb
from capfilt.schema import CAPTION
from capfilt.stages.base import at_work
from capfilt.stages.pictures import Decode


class CaptionStage:
    """Batches are cut from the chunk's healthy rows in order, so that a restart meets the same shapes (architecture, part 3)."""

    name = "caption"
    reads: tuple[str, ...] = ("row_id", "uid", "image", "captions")
    writes: tuple[str, ...] = ("captions", "status", "error")

    def __init__(
        self,
        config: CaptionConfig,
        *,
        captioner: Captioner,
        seed: int,
        round_number: int,
        decode: Decode = decode_rgb,
        called: str | None = None,
    ) -> None:
        """`called`: the captioner's name in tables and seeds; None for its own."""
        self._config = config
        self.captioner = captioner
        self.called = called or captioner.name
        self._decode = decode
        self._covering: int | None = getattr(captioner, "covering", None)
        self._seed = seed
        self._round = round_number

    def __call__(self, table: pa.Table) -> pa.Table:
        captions: list[list[dict[str, Any]]] = table["captions"].to_pylist()
        uids: list[str] = table["uid"].to_pylist()
        row_ids: list[str] = table["row_id"].to_pylist()
        status, error = table["status"].to_pylist(), table["error"].to_pylist()
        image = table["image"].combine_chunks()
        for rows in _slices(table.num_rows, self._config.batch_size):
            at_work(row_ids[rows.start : rows.stop])
            pictures, at = [], []
            for row in rows:
                try:
                    pictures.append(self._decode(image[row].as_py(), covering=self._covering))
                    at.append(row)
                except ImageError as problem:
                    status[row], error[row] = "image_invalid", str(problem)
            if not at:
                continue
            seeds = [self._seeds(uids[row]) for row in at]
            for row, texts in zip(at, self.captioner.caption(pictures, seeds=seeds), strict=True):
                captions[row].extend(self._candidate(k, text) for k, text in enumerate(texts))
        at_work(())
        return (
            table.set_column(table.column_names.index("captions"), "captions", pa.array(captions, pa.list_(CAPTION)))
            .set_column(table.column_names.index("status"), "status", pa.array(status, pa.string()))
            .set_column(table.column_names.index("error"), "error", pa.array(error, pa.string()))
        )

    def _seeds(self, uid: str) -> list[int]:
        count = self._config.captions_per_image
        return [row_seed(self._seed, self._round, "caption", self.called, uid, k) for k in range(count)]

    def _candidate(self, k: int, caption: Caption) -> dict[str, Any]:
        # An empty text is no candidate: it stays in the table, marked, and no score is asked for it.
        return {
            "text": caption.text,
            "origin": "synthetic",
            "captioner": self.called,
            "k": k,
            "log_prob": caption.log_prob,
            "rule": None,
            "error": None if caption.text else "empty_caption",
            "scores": [],
        }


def _slices(rows: int, size: int) -> Iterator[range]:
    for start in range(0, rows, size):
        yield range(start, min(start + size, rows))
