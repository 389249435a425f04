"""The wrapper around every row stage: who sees what, and which broken promises it catches."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.errors import ContractError
from capfilt.stages.base import Guarded, RowStage


class FakeStage:
    """Does `work` to the healthy rows and remembers how many it was shown."""

    name = "fake"
    reads = ("row_id", "text")
    writes = ("status", "length", "captions")

    def __init__(self, work: Callable[[pa.Table], pa.Table]) -> None:
        self.work = work
        self.shown: list[int] = []

    def __call__(self, table: pa.Table) -> pa.Table:
        self.shown.append(table.num_rows)
        return self.work(table)


def table_of(statuses: list[str]) -> pa.Table:
    rows = range(len(statuses))
    return pa.table(
        {
            "row_id": pa.array([f"c-{row:06d}" for row in rows], pa.string()),
            "status": pa.array(statuses, pa.string()),
            "text": pa.array(["x" * row for row in rows], pa.string()),
            "captions": pa.array([[{"text": "old"}] for _ in rows], pa.list_(pa.struct([("text", pa.string())]))),
        }
    )


def measure(table: pa.Table) -> pa.Table:
    """Adds `length`, replaces `captions`, and fails rows with an odd length."""
    lengths = pc.utf8_length(table["text"])
    captions = [[{"text": f"new {length}"}] for length in lengths.to_pylist()]
    odd = pc.if_else(pc.equal(pc.bit_wise_and(lengths, 1), 1), "caption_failed", "ok")
    out = table.append_column("length", lengths)
    out = out.set_column(out.column_names.index("captions"), "captions", pa.array(captions, table["captions"].type))
    return out.set_column(out.column_names.index("status"), "status", odd)


@given(st.lists(st.sampled_from(["ok", "download_failed", "opted_out"]), max_size=12))
def test_healthy_rows_are_worked_on_and_the_others_pass_by_untouched(statuses: list[str]) -> None:
    before = table_of(statuses)
    stage = FakeStage(measure)
    after = Guarded(stage)(before)
    assert stage.shown == [statuses.count("ok")]
    assert after["row_id"].to_pylist() == before["row_id"].to_pylist()
    assert after["text"].to_pylist() == before["text"].to_pylist()
    for row, status in enumerate(statuses):
        one = {name: after[name][row].as_py() for name in after.column_names}
        if status == "ok":
            assert one["length"] == row
            assert one["captions"] == [{"text": f"new {row}"}]
            assert one["status"] == ("caption_failed" if row % 2 else "ok")
        else:
            assert (one["length"], one["captions"], one["status"]) == (None, [{"text": "old"}], status)


def test_no_rows_still_gain_the_columns_of_the_stage() -> None:
    assert Guarded(FakeStage(measure))(table_of([])).column_names == ["row_id", "status", "text", "captions", "length"]


def test_a_table_in_several_pieces_gives_the_same_result() -> None:
    pieces = pa.concat_tables([table_of(["ok", "opted_out", "ok"]).slice(0, 2), table_of(["ok", "opted_out", "ok"]).slice(2)])
    assert Guarded(FakeStage(measure))(pieces).equals(Guarded(FakeStage(measure))(table_of(["ok", "opted_out", "ok"])))


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda table: table.slice(1), "was given 2 rows and gave back 1"),
        (lambda table: table.take([1, 0]), "in another order"),
        (lambda table: table.drop_columns(["text"]), "dropped column `text`"),
        (lambda table: table.set_column(2, "text", pa.array(["new", "new"])), "changed column `text`"),
        (lambda table: table.append_column("extra", pa.array([1, 2])), r"added \['extra'\]"),
    ],
    ids=["drops a row", "reorders", "drops a column", "changes a column", "adds a column"],
)
def test_a_broken_promise_is_a_contract_error_that_names_the_stage(work: Any, told: str) -> None:
    with pytest.raises(ContractError, match=f"`fake`.*{told}"):
        Guarded(FakeStage(work))(table_of(["ok", "download_failed", "ok"]))


def test_an_input_that_lacks_a_column_is_a_contract_error() -> None:
    with pytest.raises(ContractError, match=r"its input lacks \['text'\]"):
        Guarded(FakeStage(measure))(table_of(["ok"]).drop_columns(["text"]))


def test_the_wrapper_is_itself_a_row_stage() -> None:
    assert isinstance(Guarded(FakeStage(measure)), RowStage)
