from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.errors import InputError
from capfilt.evaluation.truth import read_heldout, read_truth
from capfilt.miniweb.language import describe


def test_truth_is_found_by_url_and_by_key(scenes, write_truth, wrong_text):
    rows = [
        {"url": "u", "key": None, "text_is_true": True, "noise_kind": "correct", "scene": scenes[0].to_json()},
        {"url": None, "key": "k", "text_is_true": True, "noise_kind": "human", "scene": scenes[1].to_json()},
        {"url": "u", "key": None, "text_is_true": False, "noise_kind": "spam", "scene": scenes[0].to_json()},
    ]
    truth = read_truth(write_truth(rows))
    assert set(truth) == {"u", "k"}
    assert truth["u"].text_is_true
    assert truth["k"].is_true(describe(scenes[1], Random(0)))
    assert not truth["k"].is_true(wrong_text(scenes[1]))


def test_a_real_picture_has_no_scene_and_is_found_by_uid(write_truth):
    truth = read_truth(write_truth([{"uid": "x", "text_is_true": False, "noise_kind": "near_miss"}]))
    assert not truth["x"].text_is_true
    assert truth["x"].is_true("a dog") is None
    assert truth["x"].is_whole("a dog") is None
    with pytest.raises(InputError, match="found none in row 0"):
        read_truth(write_truth([{"text_is_true": True, "noise_kind": "own"}]))


def test_heldout_pairs_come_in_the_files_order(heldout):
    pairs = read_heldout(heldout)
    assert pairs.keys == ["k0", "k1", "k2", "k3"]
    assert [len(texts) for texts in pairs.captions] == [1, 2, 1, 2]


def test_a_missing_file_or_column_is_named(tmp_path, write_truth):
    with pytest.raises(InputError, match="expected a Parquet file, found none"):
        read_heldout(str(tmp_path / "no.parquet"))
    with pytest.raises(InputError, match="found no captions, image"):
        read_heldout(write_truth([]))


def test_a_heldout_text_alone_stands_for_a_list_of_one(tmp_path):
    rows = {"key": ["a", "b", "c"], "image": [b"1", None, b"3"], "captions": ["a red dog", "a cat", None]}
    pq.write_table(pa.table(rows), tmp_path / "plain.parquet")
    pairs = read_heldout(str(tmp_path / "plain.parquet"))
    assert pairs.captions == [["a red dog"], ["a cat"]]
    assert pairs.images == [b"1", b""]
    pq.write_table(pa.table(rows | {"captions": [1, 2, 3]}), tmp_path / "plain.parquet")
    with pytest.raises(InputError, match="expected a text or a list of texts in each row of column captions, found int64"):
        read_heldout(str(tmp_path / "plain.parquet"))


def test_blank_heldout_texts_are_left_out(tmp_path):
    rows = {"key": ["a", "b"], "image": [b"1", b"2"], "captions": [["a dog", None, " "], [None]]}
    pq.write_table(pa.table(rows), tmp_path / "gaps.parquet")
    assert read_heldout(str(tmp_path / "gaps.parquet")).captions == [["a dog"]]
