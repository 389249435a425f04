"""Write: every kept row in exactly one shard, the same bytes twice, readable by tarfile and pyarrow."""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capfilt.config.round import WriteConfig
from capfilt.config.select import SelectConfig
from capfilt.errors import ContractError, InputError
from capfilt.schema import CANDIDATE_COLUMNS, COLUMNS, DATASET
from capfilt.stages.select import select, select_view
from capfilt.stages.write import write

TYPES = {column.name: column.type for column in COLUMNS}
UPSTREAM = pa.struct([("punsafe", pa.float32()), ("LICENSE", pa.string())])


def caption(origin: str, itm: float, text: str = "a text") -> dict[str, Any]:
    scores = [{"filter": "f", "itm": itm, "itc": None}]
    return {
        "text": text,
        "origin": origin,
        "captioner": None,
        "k": None,
        "log_prob": None,
        "rule": None,
        "error": None,
        "scores": scores,
    }


def make_run(folder: Path, chunks: list[list[list[dict[str, Any]]]], *, upstream: bool = False) -> Path:
    """A run with pool and round-1 candidates; `chunks[c][r]` are the captions of a row."""
    (folder / "pool").mkdir(parents=True)
    (folder / "round-1" / "candidates").mkdir(parents=True)
    for number, rows in enumerate(chunks):
        name = f"{number:016x}"
        ids = [f"{name}-{i:06d}" for i in range(len(rows))]
        values: dict[str, list[Any]] = {column: [None] * len(rows) for column in CANDIDATE_COLUMNS}
        values |= {"row_id": ids, "uid": [hashlib.md5(i.encode()).hexdigest() for i in ids], "status": ["ok"] * len(rows)}
        values |= {"captions": rows, "text": [f"web text of {i}" for i in ids], "width": [9] * len(rows)}
        table = pa.table({column: pa.array(value, TYPES[column]) for column, value in values.items()})
        if upstream:
            table = table.append_column("upstream", pa.array([{"punsafe": float("nan"), "LICENSE": "?"}] * len(rows), UPSTREAM))
        pq.write_table(table, folder / "round-1" / "candidates" / f"chunk-{name}.parquet")
        image = pa.array([f"picture of {i}".encode() for i in ids], pa.large_binary())
        pq.write_table(table.append_column("image", image), folder / "pool" / f"chunk-{name}.parquet")
    return folder


def files(run: Path, part: str) -> list[str]:
    return sorted((str(path) for path in (run / part).iterdir()), reverse=True)


def write_run(run: Path, config: WriteConfig, out: str = "dataset") -> tuple[Path, dict[str, Any]]:
    candidates = files(run, "round-1/candidates")
    select(SelectConfig(), candidates, None, str(run / "selection"))
    manifest = write(
        config,
        policy=SelectConfig(),
        selection=str(run / "selection" / "selection.parquet"),
        candidates=candidates,
        pool=files(run, "pool"),
        out=str(run / out),
        card={"name": "small", "fingerprint": "f00d"},
    )
    return run / out, manifest


def kept_ids(run: Path) -> list[str]:
    return [row["row_id"] for row in pq.read_table(run / "selection" / "selection.parquet").to_pylist() if any(row["kept"])]


THREE = [[[caption("web", 0.9), caption("synthetic", 0.95, "the best")], [caption("web", 0.1)]], [[caption("synthetic", 0.6)]]]


def test_parquet_holds_the_kept_rows_with_their_pictures_and_texts(tmp_path: Path) -> None:
    out, manifest = write_run(make_run(tmp_path, THREE), WriteConfig(rows_per_shard=1000))
    table = pq.read_table(out / "parquet" / "00000.parquet")
    assert table.schema.equals(DATASET, check_metadata=False)
    first, second = table.to_pylist()
    assert (first["caption"], first["origin"], first["key"]) == ("the best", "synthetic", "000000000")
    assert first["all_captions"] == ["a text", "the best"]
    assert first["all_origins"] == ["web", "synthetic"]
    assert first["all_itm"] == [pytest.approx(0.9), pytest.approx(0.95)]
    assert first["all_itc"] == [None, None]
    assert first["image"] == b"picture of 0000000000000000-000000"
    assert first["text"] == "web text of 0000000000000000-000000", "the web text stays as found"
    assert (second["key"], second["image"]) == ("000000001", b"picture of 0000000000000001-000000")
    assert (manifest["rows"], manifest["texts"], manifest["fingerprint"]) == (2, 3, "f00d")


def test_webdataset_members_are_read_back(tmp_path: Path) -> None:
    out, _ = write_run(make_run(tmp_path, THREE, upstream=True), WriteConfig(rows_per_shard=1))
    rows = [row for n in (0, 1) for row in pq.read_table(out / "parquet" / f"0000{n}.parquet").to_pylist()]
    for number, row in enumerate(rows):
        with tarfile.open(out / "webdataset" / f"{number:05d}.tar") as tar:
            members = tar.getmembers()
            assert [member.name for member in members] == [f"{row['key']}.{ending}" for ending in ("jpg", "txt", "json")]
            assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
            contents = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
        assert contents[0] == row["image"]
        assert contents[1].decode() == row["caption"]
        told = json.loads(contents[2])
        assert told["upstream"] == {"punsafe": None, "LICENSE": "?"}
        assert set(told) == set(row) - {"image", "caption"}
        beside = pq.read_table(out / "webdataset" / f"{number:05d}.parquet")
        assert beside["key"].to_pylist() == [row["key"]]
        assert "image" not in beside.column_names


def test_writing_twice_gives_the_same_bytes_and_the_manifest_tells_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, THREE)
    one, manifest = write_run(run, WriteConfig(rows_per_shard=1), "one")
    other, _ = write_run(run, WriteConfig(rows_per_shard=1), "other")
    names = sorted(path.relative_to(one).as_posix() for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(other).as_posix() for path in other.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
    told = {file["path"]: file for file in manifest["files"]}
    assert set(told) == {name for name in names if name[-4:] in (".tar", "quet")}
    for name, file in told.items():
        data = (one / name).read_bytes()
        assert (file["sha256"], file["bytes"], file["rows"]) == (hashlib.sha256(data).hexdigest(), len(data), 1)
    assert json.loads((one / "manifest.json").read_text()) == manifest


def test_nothing_kept_is_a_data_set_with_a_schema_and_no_shard(tmp_path: Path) -> None:
    out, manifest = write_run(make_run(tmp_path, [[[caption("web", 0.1)]], [], [[]]]), WriteConfig())
    assert (manifest["rows"], manifest["texts"], manifest["shards"], manifest["files"]) == (0, 0, 0, [])
    assert pq.read_schema(out / "parquet" / "_common_metadata").equals(DATASET, check_metadata=False)
    assert manifest["columns"]["caption"] == "string"
    assert (out / "README.md").read_text().startswith("---\n")


def test_an_interrupted_write_leaves_the_old_data_set(tmp_path: Path) -> None:
    run = make_run(tmp_path, THREE)
    out, manifest = write_run(run, WriteConfig())
    (run / "pool" / f"chunk-{1:016x}.parquet").unlink()
    with pytest.raises(InputError, match="pictures"):
        write_run(run, WriteConfig(rows_per_shard=1))
    assert json.loads((out / "manifest.json").read_text()) == manifest


def test_a_selection_of_other_candidates_is_a_bug(tmp_path: Path) -> None:
    run = make_run(tmp_path, THREE)
    write_run(run, WriteConfig())
    with pytest.raises(ContractError, match=r"others|more"):
        write(
            WriteConfig(),
            policy=SelectConfig(),
            selection=str(run / "selection" / "selection.parquet"),
            candidates=files(run, "round-1/candidates")[1:],
            pool=files(run, "pool"),
            out=str(run / "dataset"),
            card={},
        )


def test_a_kept_row_without_its_picture_is_a_bug(tmp_path: Path) -> None:
    run = make_run(tmp_path, THREE)
    path = run / "pool" / f"chunk-{0:016x}.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ContractError, match="in the pool"):
        write_run(run, WriteConfig())


def test_the_best_text_is_the_policys(tmp_path: Path) -> None:
    def scored(text: str, *scores: tuple[str, float | None, float]) -> dict[str, Any]:
        return caption("web", 0.0, text) | {"scores": [{"filter": name, "itm": itm, "itc": itc} for name, itm, itc in scores]}

    row = [scored("a", ("f", 0.9, 0.1), ("g", 0.5, 0.5)), scored("b", ("f", 0.6, 0.2), ("g", 0.6, 0.8))]
    run = make_run(tmp_path, [[row]])
    candidates = files(run, "round-1/candidates")
    best = {}
    for policy in (SelectConfig(), SelectConfig(combine="min"), SelectConfig(min_itc=0)):
        name = f"{policy.combine} {policy.score}"
        select(policy, candidates, None, str(run / name))
        selection, out = str(run / name / "selection.parquet"), str(run / f"data {name}")
        write(WriteConfig(), policy=policy, selection=selection, candidates=candidates, pool=files(run, "pool"), out=out, card={})
        (told,) = pq.read_table(Path(out) / "parquet" / "00000.parquet").to_pylist()
        best[name] = told["caption"], [round(value, 3) for value in told["all_itm"]]
    assert best == {"mean itm": ("a", [0.7, 0.6]), "min itm": ("b", [0.5, 0.6]), "mean itc": ("b", [0.7, 0.6])}


def test_the_card_tells_counts_reasons_and_what_to_mind(tmp_path: Path) -> None:
    out, _ = write_run(make_run(tmp_path, THREE), WriteConfig())
    card = (out / "README.md").read_text()
    for words in (
        "# small",
        "| kept texts | 3 |",
        "| web | 2 | 1 | 50.0% |",
        "below the policy's threshold: 1",
        "licence",
        "`caption`",
    ):
        assert words in card


def test_a_view_can_be_written_too(tmp_path: Path) -> None:
    run = make_run(tmp_path, THREE)
    select_view(run, "strict", SelectConfig(min_itm=0.93), None)
    view = run / "round-1" / "views" / "strict"
    manifest = write(
        WriteConfig(formats=["webdataset"]),
        policy=SelectConfig(),
        selection=str(view / "selection.parquet"),
        candidates=files(run, "round-1/candidates"),
        pool=files(run, "pool"),
        out=str(view / "dataset"),
        card={},
    )
    assert manifest["rows"] == 1
    assert (view / "dataset" / "webdataset" / "00000.tar").is_file()


chunks = st.lists(
    st.lists(st.lists(st.builds(caption, st.just("web"), st.sampled_from([0.1, 0.9])), max_size=2), max_size=6), max_size=4
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=chunks, rows_per_shard=st.integers(1, 5))
def test_every_kept_row_is_in_exactly_one_shard(
    tmp_path_factory: pytest.TempPathFactory, chunks: Any, rows_per_shard: int
) -> None:
    run = make_run(tmp_path_factory.mktemp("run"), chunks)
    out, manifest = write_run(run, WriteConfig(rows_per_shard=rows_per_shard))
    pictures, keys = [], []
    for file in manifest["files"]:
        if file["path"].startswith("parquet/"):
            table = pq.read_table(out / file["path"])
            assert file["rows"] == table.num_rows <= rows_per_shard
            pictures += table["image"].to_pylist()
            keys += table["key"].to_pylist()
    assert pictures == [f"picture of {i}".encode() for i in kept_ids(run)], "in the order of row ids"
    assert keys == sorted(set(keys))
    in_tars = []
    for file in manifest["files"]:
        if file["path"].endswith(".tar"):
            with tarfile.open(out / file["path"]) as tar:
                in_tars += [name.removesuffix(".jpg") for name in tar.getnames() if name.endswith(".jpg")]
    assert in_tars == keys
    assert manifest["shards"] == int(np.ceil(len(keys) / rows_per_shard))


@pytest.mark.parametrize(
    ("each", "kind", "found"),
    [
        ((pa.nulls(1), pa.array(["by"])), pa.string(), [None, "by"]),
        ((pa.array(["by"]), pa.nulls(1)), pa.string(), ["by", None]),
        ((pa.array([7]), pa.array([0.5])), pa.float64(), [7.0, 0.5]),
        ((pa.array([0.5]), pa.array([2**60 + 1])), pa.float64(), [0.5, float(2**60)]),
    ],
)
def test_carried_columns_of_two_types_become_one(
    tmp_path: Path, each: tuple[pa.Array, pa.Array], kind: pa.DataType, found: list[Any]
) -> None:
    run = make_run(tmp_path, [[[caption("web", 0.9)]]] * 2)
    for path, values in zip(reversed(files(run, "round-1/candidates")), each, strict=True):
        upstream = pa.StructArray.from_arrays([values], names=["license"])
        pq.write_table(pq.read_table(path).append_column("upstream", upstream), path)
    out, manifest = write_run(run, WriteConfig())
    assert manifest["columns"]["upstream"] == f"struct<license: {kind}>"
    rows = pq.read_table(out / "parquet" / "00000.parquet")["upstream"].to_pylist()
    assert [row["license"] for row in rows] == found


def test_carried_columns_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, [[[caption("web", 0.9)]]] * 2)
    for path, value in zip(files(run, "round-1/candidates"), ("by", 7), strict=True):
        upstream = pa.array([{"license": value}])
        pq.write_table(pq.read_table(path).append_column("upstream", upstream), path)
    with pytest.raises(InputError, match=r"expected one type of `license` in all files, found int64 in .* and string in"):
        write_run(run, WriteConfig())
