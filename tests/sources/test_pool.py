"""From a source to the pool: every row of the input is in a committed file, pictures of the input are stored like others."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.config.load import load_text
from capfilt.errors import InputError
from capfilt.plan import make_plan
from capfilt.run import index
from capfilt.run.build import Job
from capfilt.run.planning import plan_pipeline
from capfilt.run.work import PoolWork

YAML = """
version: 1
name: p
output: {output}
read: {read}
download: {{image_px: 16}}
resources: {{executor: local}}
"""


def pool(read: str, output: Path) -> pa.Table:
    pipeline = load_text(YAML.format(output=output, read=read))
    plan = make_plan(pipeline, index.scan(pipeline.read))
    work = PoolWork(Job("pool", pipeline, plan.fingerprint))
    outcomes = [work(chunk) for chunk in plan.chunks]
    assert [outcome.error for outcome in outcomes] == [None] * len(plan.chunks)
    assert sum(outcome.rows for outcome in outcomes) == plan.rows
    return pa.concat_tables([pq.read_table(output / "pool" / f"chunk-{chunk.chunk_id}.parquet") for chunk in plan.chunks])


def test_pictures_of_every_kind_of_source_are_stored_as_the_same_bytes(kit: Any, tmp_path: Path) -> None:
    kit.parquet(tmp_path / "x.parquet", kit.table(kit.pairs, image="image", text="text"))
    members = [member for member in kit.samples(kit.pairs) if not member[0].endswith("json")]
    kit.put(tmp_path / "x.tar", kit.tar_bytes(members))
    kit.unpack(tmp_path / "folder", members)
    kinds = {"parquet_images": "x.parquet", "webdataset": "x.tar", "folder": "folder"}
    tables = [
        pool(f"{{kind: {kind}, paths: [{tmp_path}/{name}], rows_per_chunk: 8}}", tmp_path / f"run-{kind}")
        for kind, name in kinds.items()
    ]
    first = tables[0].drop(["row_id"])
    assert first["status"].to_pylist() == ["ok"] * 20
    assert first["height"].to_pylist() == [16] * 20
    assert all(table.drop(["row_id"]).equals(first) for table in tables[1:])


def test_what_cannot_be_read_is_counted_with_the_rest(kit: Any, tmp_path: Path) -> None:
    kit.put(tmp_path / "x.csv", b"url,text\nhttp://127.0.0.1/a,one\nno url here\n,three\n")
    table = pool(f"{{paths: [{tmp_path}/x.csv]}}", tmp_path / "run")
    assert table["error"].to_pylist() == ["refused_address", "bad_line", "bad_url"]
    assert set(table["status"].to_pylist()) == {"download_failed"}


def test_the_plan_tells_what_was_found_and_what_is_not_read(kit: Any, tmp_path: Path) -> None:
    data = kit.tar_bytes(kit.samples(kit.pairs))
    kit.put(tmp_path / "x.tar", data[: len(data) // 2 + 300])
    plan = plan_pipeline(load_text(YAML.format(output=tmp_path / "run", read=f"{{kind: webdataset, paths: [{tmp_path}/x.tar]}}")))
    assert plan.columns == {"image": "jpg", "text": "txt", "url": "url"}
    assert [note for note in plan.notes if "x.tar breaks off after " in note]


def test_a_source_without_rows_is_an_input_error(kit: Any, tmp_path: Path) -> None:
    kit.put(tmp_path / "x.csv", b"url,text\n")
    kit.put(tmp_path / "y.csv", b"")
    with pytest.raises(InputError, match=r"expected rows, found 2 file\(s\) with 0 rows at .*\*\.csv") as error:
        plan_pipeline(load_text(YAML.format(output=tmp_path / "run", read=f"{{paths: ['{tmp_path}/*.csv']}}")))
    assert error.value.exit_code == 2


def test_the_index_keeps_everything_that_was_found(kit: Any, tmp_path: Path) -> None:
    kit.unpack(tmp_path / "folder", kit.samples(kit.pairs))
    data = kit.tar_bytes(kit.samples(kit.pairs))
    kit.put(tmp_path / "x.tar", data[: len(data) // 2 + 300])
    for kind, name in (("folder", "folder"), ("webdataset", "x.tar")):
        found = index.scan(kit.section(kind=kind, paths=[str(tmp_path / name)]))
        index.save(str(tmp_path), found)
        assert index.load(str(tmp_path)) == found
