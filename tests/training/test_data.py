from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.errors import InputError
from capfilt.training.data import read_pairs


def test_the_pool_gives_web_texts_that_no_rule_rejected_of_healthy_rows(tmp_path, picture, caption, write_pool):
    path = write_pool(
        [
            {"status": "ok", "image": picture(0), "captions": [caption("good"), caption("IMG_1", rule="not_file_name")]},
            {"status": "download_failed", "image": None, "captions": [caption("lost")]},
            {"status": "ok", "image": picture(1), "captions": [caption("made up", origin="synthetic")]},
            {"status": "ok", "image": picture(2), "captions": [caption("  ")]},
            {"status": "ok", "image": picture(3), "captions": [caption("last")]},
        ]
    )
    pairs = read_pairs([path], "pool", 8, spool=tmp_path / "spool")
    assert pairs.texts == ["good", "last"]
    assert pairs.picture_of.tolist() == [0, 1]


def test_a_data_set_gives_every_kept_text_and_shards_follow_one_another(tmp_path, picture):
    paths = []
    for number, texts in enumerate([["one", "two"], ["three"]]):
        schema = pa.schema([("image", pa.large_binary()), ("all_captions", pa.list_(pa.string()))])
        row = {"image": picture(number), "all_captions": texts}
        pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / f"{number}.parquet")
        paths.append(str(tmp_path / f"{number}.parquet"))
    pairs = read_pairs(paths, "dataset", 8, spool=tmp_path / "spool")
    assert pairs.texts == ["one", "two", "three"]
    assert pairs.picture_of.tolist() == [0, 0, 1]


def test_the_same_picture_has_one_id_within_and_across_files(tmp_path, picture, write_human):
    first = write_human([{"key": str(i), "image": picture(i % 2), "captions": ["x"]} for i in range(4)], "a.parquet")
    second = write_human([{"key": "z", "image": picture(1), "captions": ["y"]}], "b.parquet")
    a = read_pairs([first], "human", 8, spool=tmp_path / "s")
    b = read_pairs([second], "human", 8, spool=tmp_path / "s")
    assert a.picture_of.tolist() == [0, 1, 0, 1]
    assert len(a.pictures) == 2
    assert b.image_ids[0] == a.image_ids[1] != a.image_ids[0]
    assert (a.image_ids >= 0).all()


def test_a_missing_file_and_a_missing_column_are_named(tmp_path: Path, write_human):
    with pytest.raises(InputError, match=r"nowhere\.parquet: expected a Parquet file"):
        read_pairs([str(tmp_path / "nowhere.parquet")], "human", 8, spool=tmp_path / "s")
    with pytest.raises(InputError, match="found no all_captions"):
        read_pairs([write_human([])], "dataset", 8, spool=tmp_path / "s")


def test_files_without_a_pair_are_an_error(tmp_path, write_human):
    with pytest.raises(InputError, match="expected pairs to train on, found none"):
        read_pairs([write_human([])], "human", 8, spool=tmp_path / "s")


def test_a_broken_picture_is_named_with_its_row(tmp_path, picture, write_human):
    path = write_human([{"key": str(i), "image": data, "captions": ["x"]} for i, data in enumerate([picture(0), b"no"])])
    with pytest.raises(InputError, match=r"human\.parquet, row 1: expected an encoded picture"):
        read_pairs([path], "human", 8, spool=tmp_path / "s")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_text_alone_stands_for_a_list_of_one(tmp_path, picture, kind):
    texts = pa.array(["a red dog", None, " ", "ab"], pa.string()).cast(kind)
    pq.write_table(pa.table({"image": [picture(i) for i in range(4)], "captions": texts}), tmp_path / "plain.parquet")
    pairs = read_pairs([str(tmp_path / "plain.parquet")], "human", 8, spool=tmp_path / "s")
    assert pairs.texts == ["a red dog", "ab"]
    assert pairs.picture_of.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("captions", [[1, 2]], r"plain\.parquet: expected a text or a list of texts in each row of column captions, found list<"),
        (
            "image",
            [{"bytes": b"", "path": "x"}],
            r"expected encoded pictures \(binary\) in column image, found struct<.*field `bytes`",
        ),
        ("image", ["x.png"], r"expected encoded pictures \(binary\) in column image, found string"),
    ],
)
def test_columns_of_another_type_are_refused(tmp_path, picture, column, values, told):
    pq.write_table(pa.table({"image": [picture(0)], "captions": ["a"]} | {column: values}), tmp_path / "plain.parquet")
    with pytest.raises(InputError, match=told):
        read_pairs([str(tmp_path / "plain.parquet")], "human", 8, spool=tmp_path / "s")


def test_a_picture_that_is_not_there_is_named_with_its_row(tmp_path, picture, write_human):
    path = write_human([{"key": str(i), "image": data, "captions": ["x"]} for i, data in enumerate([picture(0), None])])
    with pytest.raises(InputError, match=r"human\.parquet, row 1: expected an encoded picture"):
        read_pairs([path], "human", 8, spool=tmp_path / "s")
