"""Several stages of one kind as one: several captioners, or several filters, over the same rows.

Knows neither what they compute nor how their texts and scores are told apart.
"""

from collections.abc import Sequence

import pyarrow as pa

from capfilt.stages.base import RowStage


class InTurn:
    """Each adds its part to what the ones before left.

    All see the same rows, also those that one before has just marked as bad, so that every model meets the batches it would meet
    alone.
    """

    def __init__(self, stages: Sequence[RowStage]) -> None:
        self._stages = tuple(stages)
        self.name = stages[0].name
        self.reads = tuple(dict.fromkeys(name for stage in stages for name in stage.reads))
        self.writes = tuple(dict.fromkeys(name for stage in stages for name in stage.writes))

    def __call__(self, table: pa.Table) -> pa.Table:
        for stage in self._stages:
            table = stage(table)
        return table
