import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capfilt.config.read import ParquetImages, UrlList
from capfilt.errors import InputError
from capfilt.identity import uid_of
from capfilt.plan import Chunk
from capfilt.schema import READ_COLUMNS, UPSTREAM, pool_schema
from capfilt.stages.read import read_chunk


def slice_of(path: str, rows: int, start: int = 0, row_group: int = 0, chunk_id: str = "c" * 16) -> Chunk:
    return Chunk(chunk_id, path, "e", row_group, start, rows, 0)


def written(path: Path, table: pa.Table, row_group_size: int = 1000) -> str:
    file = str(path / "input.parquet")
    pq.write_table(table, file, row_group_size=row_group_size)
    return file


def config(path: str, **changes: object) -> UrlList:
    return UrlList.model_validate({"paths": [path], **changes})


def test_rows_get_ids_uids_and_a_status(tmp_path: Path) -> None:
    file = written(tmp_path, pa.table({"url": ["http://a/1", None, "  "], "text": ["one", "two", None]}))
    table = read_chunk(slice_of(file, 3), config(file))
    assert table.column_names == list(READ_COLUMNS)
    assert table["row_id"].to_pylist() == [f"{'c' * 16}-00000{row}" for row in range(3)]
    assert table["uid"][0].as_py() == uid_of("http://a/1", "one")
    assert table["status"].to_pylist() == ["ok", "download_failed", "download_failed"]
    assert table["error"].to_pylist() == [None, "bad_url", "bad_url"]
    assert table["text"].to_pylist() == ["one", "two", None]
    schema = pool_schema()
    assert all(table.schema.field(name).type == schema.field(name).type for name in READ_COLUMNS)


def test_a_chunk_is_a_slice_of_its_row_group(tmp_path: Path) -> None:
    urls = [f"http://a/{row}" for row in range(20)]
    file = written(tmp_path, pa.table({"url": urls, "text": urls}), row_group_size=8)
    assert read_chunk(slice_of(file, 3, start=2, row_group=1), config(file))["url"].to_pylist() == urls[10:13]


def test_columns_are_mapped_and_carried(tmp_path: Path) -> None:
    data = {
        "URL": ["http://a"],
        "TEXT": ["t"],
        "uid": ["f" * 32],
        "punsafe": [0.25],
        "LICENSE": pa.array(["cc"]).dictionary_encode(),
    }
    file = written(tmp_path, pa.table(data))
    mapped = config(file, columns={"url": "URL", "text": "TEXT", "uid": "uid"}, keep_columns=["punsafe", "LICENSE"])
    table = read_chunk(slice_of(file, 1), mapped)
    assert table["uid"].to_pylist() == ["f" * 32]
    assert table[UPSTREAM].to_pylist() == [{"punsafe": 0.25, "LICENSE": "cc"}]
    assert table.schema.field(UPSTREAM).type == pa.struct([("punsafe", pa.float64()), ("LICENSE", pa.string())])


def test_without_a_text_column_texts_are_null(tmp_path: Path) -> None:
    file = written(tmp_path, pa.table({"url": ["http://a"]}))
    assert read_chunk(slice_of(file, 1), config(file, columns={"text": None}))["text"].to_pylist() == [None]


def test_texts_of_other_types_are_read_as_text(tmp_path: Path) -> None:
    data = {"url": pa.array(["http://a"]).dictionary_encode(), "text": pa.array([b"caf\xc3\xa9 \xff"], pa.binary())}
    file = written(tmp_path, pa.table(data))
    assert read_chunk(slice_of(file, 1), config(file))["text"].to_pylist() == ["café \ufffd"]
    file = written(tmp_path, pa.table({"url": ["http://a"], "text": [7]}))
    assert read_chunk(slice_of(file, 1), config(file))["text"].to_pylist() == ["7"]
    file = written(tmp_path, pa.table({"url": ["http://a"], "text": pa.nulls(1)}))
    assert read_chunk(slice_of(file, 1), config(file))["text"].to_pylist() == [None]


def test_a_list_is_no_text(tmp_path: Path) -> None:
    file = written(tmp_path, pa.table({"url": ["http://a"], "text": [["a", "b"]]}))
    with pytest.raises(InputError, match="expected text in column `text`, found list"):
        read_chunk(slice_of(file, 1), config(file))


def test_a_missing_column_names_file_columns_and_the_nearest_name(tmp_path: Path) -> None:
    file = written(tmp_path, pa.table({"URL": ["http://a"], "caption": ["t"]}))
    with pytest.raises(InputError) as error:
        read_chunk(slice_of(file, 1), config(file, columns={"url": "url", "text": "captions"}))
    assert file in str(error.value)
    assert "`URL`, `caption`" in str(error.value)
    assert "Did you mean `URL`?" in str(error.value)


def test_a_corrupt_missing_or_changed_file_is_an_input_error(tmp_path: Path) -> None:
    file = written(tmp_path, pa.table({"url": ["http://a"], "text": ["t"]}))
    with pytest.raises(InputError, match="has changed"):
        read_chunk(slice_of(file, 2), config(file))
    with pytest.raises(InputError, match="has changed"):
        read_chunk(slice_of(file, 1, row_group=1), config(file))
    Path(file).write_bytes(Path(file).read_bytes()[:-20])
    with pytest.raises(InputError, match="readable Parquet"):
        read_chunk(slice_of(file, 1), config(file))
    with pytest.raises(InputError, match="readable Parquet"):
        read_chunk(slice_of(file + ".gone", 1), config(file))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(st.none() | st.text(), st.none() | st.text()), min_size=1, max_size=12), group=st.integers(1, 5))
def test_every_input_row_is_read_once_and_has_a_uid(
    tmp_path: Path, rows: list[tuple[str | None, str | None]], group: int
) -> None:
    url, text = (pa.array(column, pa.string()) for column in zip(*rows, strict=True))
    file = written(tmp_path, pa.table({"url": url, "text": text}), row_group_size=group)
    read = [
        read_chunk(slice_of(file, min(group, len(rows) - start), row_group=number, chunk_id=f"{number:016d}"), config(file))
        for number, start in enumerate(range(0, len(rows), group))
    ]
    table = pa.concat_tables(read)
    assert table["text"].to_pylist() == text.to_pylist()
    assert len(set(table["row_id"].to_pylist())) == len(rows)
    assert {len(uid) for uid in table["uid"].to_pylist()} == {32}


def pictures(path: Path, **columns: object) -> str:
    return written(path, pa.table(columns))


def test_a_source_of_pictures_brings_their_bytes(tmp_path: Path) -> None:
    file = pictures(
        tmp_path, image=[b"one", None, b"", b"two"], text=["a", "b", None, "d"], url=[None, "http://b", None, "http://d"]
    )
    table = read_chunk(slice_of(file, 4), ParquetImages(kind="parquet_images", paths=[file]))
    assert table["image"].to_pylist() == [b"one", None, None, b"two"]
    assert table["status"].to_pylist() == ["ok", "image_invalid", "image_invalid", "ok"]
    assert table["error"].to_pylist() == [None, "no_image", "no_image", None]
    assert table["uid"][0].as_py() == uid_of(hashlib.sha256(b"one").hexdigest(), "a")
    assert table["uid"][3].as_py() == uid_of("http://d", "d")


def test_pictures_must_be_bytes(tmp_path: Path) -> None:
    file = pictures(tmp_path, image=["a.jpg"], text=["a"])
    with pytest.raises(InputError, match="expected the bytes of pictures in column `image`, found string"):
        read_chunk(slice_of(file, 1), ParquetImages(kind="parquet_images", paths=[file]))


def test_a_uid_that_is_not_32_hex_digits_is_hashed(tmp_path: Path) -> None:
    file = written(tmp_path, pa.table({"url": ["http://a"] * 4, "text": ["t"] * 4, "uid": ["1" * 32, "7", "8", None]}))
    uids = read_chunk(slice_of(file, 4), config(file))["uid"].to_pylist()
    assert uids[0] == "1" * 32
    assert uids[3] == uid_of("http://a", "t")
    assert len(set(uids)) == 4
    assert all(len(uid) == 32 for uid in uids)
