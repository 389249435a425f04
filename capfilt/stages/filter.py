"""Filter: image x every text -> `captions[].scores` and the image's `embedding`. Scores are kept, whatever `select` decides."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from capfilt.config.round import FilterConfig
from capfilt.errors import ConfigError
from capfilt.filters import Filter, Scores
from capfilt.images import decode_rgb
from capfilt.schema import EMBEDDING, embedding_type
from capfilt.stages.pictures import Decode, PictureBatches


class FilterStage:
    """Scores every candidate text that no rule rejected; all texts of a picture share its encoding."""

    name = "filter"
    reads: tuple[str, ...] = ("row_id", "image", "captions")

    def __init__(
        self,
        config: FilterConfig,
        *,
        scorer: Filter,
        decode: Decode = decode_rgb,
        called: str | None = None,
        embeds: bool = True,
    ) -> None:
        """`called`: the filter's name in tables; None for its own. `embeds`: whether the pictures' embedding is this filter's."""
        self._config = config
        self.scorer = scorer
        self.called = called or scorer.name
        self._embeds = embeds
        self.writes: tuple[str, ...] = ("captions", *([EMBEDDING] if embeds else []), "status", "error")
        self._decode = decode
        self._covering: int | None = getattr(scorer, "covering", None)

    def __call__(self, table: pa.Table) -> pa.Table:
        captions: list[list[dict[str, Any]]] = table["captions"].to_pylist()
        embeddings: list[np.ndarray[Any, Any] | None] = [None] * table.num_rows
        batches = PictureBatches(table, self._config.batch_size, self._decode, self._covering)
        for at, pictures in batches:
            asked = [[c for c in captions[row] if c["rule"] is None and c["error"] is None] for row in at]
            scores = self._scores(self.scorer.score(pictures, [[c["text"] for c in texts] for texts in asked]), asked)
            for i, (row, texts) in enumerate(zip(at, asked, strict=True)):
                embeddings[row] = scores.embedding[i].astype(np.float16)
                for j, caption in enumerate(texts):
                    caption["scores"] = [
                        *caption["scores"],
                        {
                            "filter": self.called,
                            "itm": None if scores.itm is None else scores.itm[i][j],
                            "itc": None if scores.itc is None else scores.itc[i][j],
                        },
                    ]
        done = batches.told(captions)
        return done.append_column(EMBEDDING, _embedding_column(embeddings, self.scorer.dim)) if self._embeds else done

    def _scores(self, found: Any, asked: Sequence[Sequence[Any]]) -> Scores:
        """What the filter gave back; one of the user's own may give anything."""
        counts = [len(texts) for texts in asked]
        if not all(hasattr(found, name) for name in ("itm", "itc", "embedding")):
            told = type(found).__name__
        elif (shape := np.shape(found.embedding)) != (len(asked), self.scorer.dim):
            told = f"an embedding of shape {list(shape)}"
        else:
            given = {"itm": found.itm, "itc": found.itc}
            wrong = [name for name, rows in given.items() if rows is not None and [len(row) for row in rows] != counts]
            told = f"{wrong[0]} of another number of texts" if wrong else ""
        if told:
            raise ConfigError(
                f"filter.filter: expected {self.called} to give capfilt.filters.Scores(itm, itc, embedding) with a number for "
                f"each text of {len(asked)} pictures and an embedding [{len(asked)}, {self.scorer.dim}], found {told}. Correct "
                "its `score` (docs/extending.md)"
            )
        scores: Scores = found
        return scores


def _embedding_column(vectors: list[np.ndarray[Any, Any] | None], dim: int) -> pa.Array:
    zeros = np.zeros(dim, dtype=np.float16)
    flat = np.concatenate([zeros if v is None else v for v in vectors]) if vectors else np.zeros(0, dtype=np.float16)
    missing = np.array([v is None for v in vectors], dtype=bool)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(flat, pa.float16()), dim, mask=pa.array(missing) if missing.any() else None
    )
    return column.cast(embedding_type(dim))
