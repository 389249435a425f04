"""Caption: image -> `captions` gains n synthetic texts per healthy row."""

from typing import Any

import pyarrow as pa

from capfilt.captioners import Caption, Captioner
from capfilt.config.round import CaptionConfig
from capfilt.errors import ConfigError
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
            for row, texts in zip(at, self._texts(self.captioner.caption(pictures, seeds=seeds), len(at)), strict=True):
                captions[row].extend(self._candidate(k, text) for k, text in enumerate(texts))
        return batches.told(captions)

    def _texts(self, found: Any, count: int) -> list[list[Caption]]:
        """What the captioner gave back; one of the user's own may give anything."""
        is_right = _are_lists(found) and len(found) == count and _are_lists(*found)
        if not is_right or not all(_is_caption(text) for texts in found for text in texts):
            raise ConfigError(
                f"caption.captioner: expected {self.called} to give, for each of {count} pictures, a list of "
                f"capfilt.captioners.Caption(text, log_prob), found {_told(found)}. Correct its `caption` (docs/extending.md)"
            )
        texts: list[list[Caption]] = found
        return texts

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


def _are_lists(*values: Any) -> bool:
    return all(isinstance(value, list | tuple) for value in values)


def _is_caption(value: Any) -> bool:
    return isinstance(getattr(value, "text", None), str) and hasattr(value, "log_prob")


def _told(value: Any) -> str:
    """`3 x 1 x str`: how many of what, by the first of each list."""
    if not _are_lists(value):
        return type(value).__name__
    return f"{len(value)} x {_told(value[0])}" if value else "an empty list"
