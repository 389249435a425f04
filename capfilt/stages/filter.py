"""Filter: image x every text -> `captions[].scores` and the image's `embedding`. Scores are kept, whatever `select` decides."""

from typing import Any

import numpy as np
import pyarrow as pa

from capfilt.config.round import FilterConfig
from capfilt.filters import Filter
from capfilt.images import ImageError, decode_rgb
from capfilt.schema import CAPTION, EMBEDDING, embedding_type
from capfilt.stages.base import at_work
from capfilt.stages.pictures import Decode


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
        status, error = table["status"].to_pylist(), table["error"].to_pylist()
        row_ids: list[str] = table["row_id"].to_pylist()
        image = table["image"].combine_chunks()
        embeddings: list[np.ndarray[Any, Any] | None] = [None] * table.num_rows
        for start in range(0, table.num_rows, self._config.batch_size):
            rows = range(start, min(start + self._config.batch_size, table.num_rows))
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
            asked = [[c for c in captions[row] if c["rule"] is None and c["error"] is None] for row in at]
            scores = self.scorer.score(pictures, [[c["text"] for c in texts] for texts in asked])
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
        at_work(())
        done = (
            table.set_column(table.column_names.index("captions"), "captions", pa.array(captions, pa.list_(CAPTION)))
            .set_column(table.column_names.index("status"), "status", pa.array(status, pa.string()))
            .set_column(table.column_names.index("error"), "error", pa.array(error, pa.string()))
        )
        return done.append_column(EMBEDDING, _embedding_column(embeddings, self.scorer.dim)) if self._embeds else done


def _embedding_column(vectors: list[np.ndarray[Any, Any] | None], dim: int) -> pa.Array:
    zeros = np.zeros(dim, dtype=np.float16)
    flat = np.concatenate([zeros if v is None else v for v in vectors]) if vectors else np.zeros(0, dtype=np.float16)
    missing = np.array([v is None for v in vectors], dtype=bool)
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(flat, pa.float16()), dim, mask=pa.array(missing) if missing.any() else None
    )
    return column.cast(embedding_type(dim))
