"""Caption and filter as one stage: batch by batch, over pictures that both may take from one memory.

Gives what the two give one after the other, to the bit. Knows neither what they compute nor what they share.
"""

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.stages.base import RowStage


class Fused:
    """Cuts a table of healthy rows as both stages cut it, and brings each batch through both.

    Both must cut `batch_size` rows at a time. `at` is the stage that is at work, or was when one failed.
    """

    name = "caption+filter"

    def __init__(self, caption: RowStage, score: RowStage, *, batch_size: int) -> None:
        self._caption, self._score, self._batch_size = caption, score, batch_size
        self.reads = tuple(dict.fromkeys((*caption.reads, *(name for name in score.reads if name not in caption.writes))))
        self.writes = tuple(dict.fromkeys((*caption.writes, *score.writes)))
        self.at: Literal["caption", "filter"] = "caption"

    def __call__(self, table: pa.Table) -> pa.Table:
        size = self._batch_size
        done: list[pa.Table] = []
        for start in range(0, max(1, table.num_rows), size):
            part = self._captioned(table.slice(start, size))
            if not pc.all(pc.equal(part["status"], "ok"), min_count=0).as_py():
                # A picture that cannot be decoded is none of the filter's rows: from here on it cuts otherwise than `caption`.
                rest = self._captioned(table.slice(start + size))
                done.append(self._scored(pa.concat_tables([part, rest])))
                break
            done.append(self._scored(part))
        return pa.concat_tables(done)

    def _captioned(self, table: pa.Table) -> pa.Table:
        self.at = "caption"
        return self._caption(table)

    def _scored(self, table: pa.Table) -> pa.Table:
        self.at = "filter"
        return self._score(table)
