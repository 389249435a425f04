"""Caption: image -> `captions` gains n synthetic texts per healthy row."""

from typing import Any

import pyarrow as pa

from capfilt.captioners import Caption, Captioner
from capfilt.config.round import CaptionConfig
from capfilt.identity import row_seed
from capfilt.images import decode_rgb
from capfilt.stages.pictures import Decode, PictureBatches


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
        batches = PictureBatches(table, self._config.batch_size, self._decode, self._covering)
        for at, pictures in batches:
            seeds = [self._seeds(uids[row]) for row in at]
            for row, texts in zip(at, self.captioner.caption(pictures, seeds=seeds), strict=True):
                captions[row].extend(self._candidate(k, text) for k, text in enumerate(texts))
        return batches.told(captions)

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
