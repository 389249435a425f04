"""Explain: a row's whole journey from the files of a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.config.round import DedupConfig, WriteConfig
from capfilt.config.select import SelectConfig
from capfilt.errors import InputError
from capfilt.run.explain import explain
from capfilt.schema import COLUMNS, candidates_schema
from capfilt.show import show_journey
from capfilt.stages.dedup import dedup
from capfilt.stages.select import select
from capfilt.stages.write import write

CHUNKS = ("00000000000000aa", "00000000000000bb")


def caption(itm: float) -> dict[str, Any]:
    scores = [{"filter": "f", "itm": itm, "itc": 0.1}]
    return {
        "text": f"at {itm}",
        "origin": "web",
        "captioner": None,
        "k": None,
        "log_prob": None,
        "rule": None,
        "error": None,
        "scores": scores,
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four rows; 0 and 2 show the same picture, 3 failed, 1 and 2 have the same uid."""
    folder = tmp_path / "run"
    for part in ("pool", "round-0", "round-1/candidates"):
        (folder / part).mkdir(parents=True)
    texts = [[caption(0.6), caption(0.1)], [caption(0.7)], [caption(0.9)], []]
    vectors = [[1, 0], [0, 1], [1, 0.01], None]
    for chunk, part in zip(CHUNKS, (range(2), range(2, 4)), strict=True):
        values: dict[str, list[Any]] = {column.name: [None] * 2 for column in COLUMNS}
        values |= {
            "row_id": [f"{chunk}-{i - part[0]:06d}" for i in part],
            "uid": [f"{min(i, 1) if i < 3 else i:032x}" for i in part],
            "status": ["download_failed" if i == 3 else "ok" for i in part],
            "error": ["http_404" if i == 3 else None for i in part],
            "captions": [texts[i] for i in part],
            "image": [None if i == 3 else f"picture {i}".encode() for i in part],
        }
        pool = pa.table({column.name: pa.array(values[column.name], column.type) for column in COLUMNS})
        pq.write_table(pool, folder / "pool" / f"chunk-{chunk}.parquet")
        schema = candidates_schema(2)
        embedding = pa.array(
            [None if vectors[i] is None else np.array(vectors[i], np.float16) for i in part], schema.field("embedding").type
        )
        table = pool.drop_columns(["image"]).append_column("embedding", embedding)
        pq.write_table(table.select(schema.names), folder / "round-1" / "candidates" / f"chunk-{chunk}.parquet")
    candidates = [str(folder / "round-1" / "candidates" / f"chunk-{chunk}.parquet") for chunk in CHUNKS]
    pools = [str(folder / "pool" / f"chunk-{chunk}.parquet") for chunk in CHUNKS]
    dedup(DedupConfig(), candidates, str(folder / "round-1" / "dedup"), embedder=None)
    selection = str(folder / "round-1" / "selection")
    select(SelectConfig(), candidates, str(folder / "round-1" / "dedup"), selection)
    write(
        WriteConfig(rows_per_shard=1),
        policy=SelectConfig(),
        selection=f"{selection}/selection.parquet",
        candidates=candidates,
        pool=pools,
        out=str(folder / "round-1" / "dataset"),
        card={},
    )
    return folder


def test_a_duplicate_is_told_with_its_group_and_its_neighbours(run: Path) -> None:
    (row,) = explain(run, f"{0:032x}")
    (story,) = row["rounds"]
    assert [(text["kept"], text["reason"]) for text in story["captions"]] == [(False, "duplicate"), (False, "below_threshold")]
    assert story["group_members"] == [f"{CHUNKS[0]}-000000", f"{CHUNKS[1]}-000000"]
    assert story["neighbours"] == [{"row_id": f"{CHUNKS[1]}-000000", "cosine": pytest.approx(1, abs=1e-3), "kind": "cosine"}]
    assert story["dataset"] is None
    assert story["judged"] == {"policy": "both", "score": "itm", "threshold": 0.5}
    assert "image" not in row


def test_a_threshold_of_its_own_is_told_of_the_one_filter(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    candidates = [str(run / "round-1" / "candidates" / f"chunk-{chunk}.parquet") for chunk in CHUNKS]
    policy = SelectConfig.model_validate({"combine": "vote", "by": {"f": {"min_itc": 0.05}}})
    select(policy, candidates, str(run / "round-1" / "dedup"), str(run / "round-1" / "selection"))
    show_journey(explain(run, f"{0:032x}")[0])
    assert "policy both, vote of the filters, each by its own threshold: f ITC of 0.05" in capsys.readouterr().out


def test_rows_that_share_a_uid_are_all_told_each_with_its_own_place(run: Path) -> None:
    rows = explain(run, f"{1:032x}")
    assert [row["row_id"] for row in rows] == [f"{CHUNKS[0]}-000001", f"{CHUNKS[1]}-000000"]
    for number, row in enumerate(rows):
        place = row["rounds"][0]["dataset"]
        assert (place["shard"], place["key"]) == (f"{number:05d}", f"{number:05d}0000")
        table = pq.read_table(run / "round-1" / "dataset" / place["files"][0])
        assert table["key"].to_pylist() == [place["key"]]
        assert table["image"].to_pylist() == [[b"picture 1", b"picture 2"][number]]


def test_a_row_id_finds_its_row_and_a_failed_one_says_why(run: Path) -> None:
    (row,) = explain(run, f"{CHUNKS[1]}-000001")
    assert (row["status"], row["error"], row["uid"]) == ("download_failed", "http_404", f"{3:032x}")
    assert row["rounds"][0]["captions"] == []


def test_the_first_digits_of_a_uid_do_where_they_are_one_rows(run: Path) -> None:
    chunk = run / "pool" / f"chunk-{CHUNKS[1]}.parquet"
    table = pq.read_table(chunk)
    uids = pa.array(["abcdef01" + "0" * 24, "abcdef02" + "0" * 24], pa.string())
    pq.write_table(table.set_column(table.column_names.index("uid"), "uid", uids), chunk)
    (row,) = explain(run, "abcdef01")
    assert row["row_id"] == f"{CHUNKS[1]}-000000"
    with pytest.raises(InputError, match=r"one uid that begins with abcdef, found abcdef010+, abcdef020+"):
        explain(run, "abcdef")


def test_a_run_that_has_only_a_pool_is_told_so_far(run: Path) -> None:
    for path in (run / "round-1" / "candidates").iterdir():
        path.unlink()
    assert explain(run, f"{0:032x}")[0]["rounds"] == []


def test_a_stranger_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match="2 pool files"):
        explain(run, "f" * 32)


def test_texts_that_were_made_since_the_round_decided_are_not_decided(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As between a retry that won row 3, when candidates are made anew, and the end of the run that goes on."""
    chunk = run / "round-1" / "candidates" / f"chunk-{CHUNKS[1]}.parquet"
    table = pq.read_table(chunk)
    at, kind = table.column_names.index("captions"), table.schema.field("captions").type
    texts = [table["captions"][0].as_py(), [caption(0.6), caption(0.8)]]
    pq.write_table(table.set_column(at, "captions", pa.array(texts, kind)), chunk)
    (row,) = explain(run, f"{CHUNKS[1]}-000001")
    (story,) = row["rounds"]
    assert [text["text"] for text in story["captions"]] == ["at 0.6", "at 0.8"]
    assert not any("kept" in text for text in story["captions"])
    show_journey(row)
    told = capsys.readouterr().out
    assert told.count("not decided") == 2
    assert "no selection yet" in told
