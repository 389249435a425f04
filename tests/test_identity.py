"""Names derived from content never change and never collide by concatenation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.identity import chunk_id, content_hash, fingerprint, model_name, row_id, row_seed, stage_seed, uid_of

words = st.text(max_size=12)


def test_the_identities_are_pinned_for_ever() -> None:
    assert uid_of("http://a.test/1.jpg", "a red square") == "3e23cd8687d464aa46bfe3c7ecc52ced"
    assert chunk_id("web.parquet", "etag", 0, 256) == "52c1f7a4cad2a964"
    assert row_seed(0, 1, "caption", "med", "f" * 32, 0) == 4_661_382_955_616_560_102
    assert stage_seed(0, "round-1", "pretrain") == 526_745_612
    assert fingerprint({"b": [1, 2.5], "a": None}) == "d2499febf46b0cce"


@given(st.lists(words, max_size=4), st.lists(words, max_size=4))
def test_different_parts_have_different_hashes(one: list[str], other: list[str]) -> None:
    assert (content_hash(*one) == content_hash(*other)) == (one == other)


@given(words, words)
def test_a_uid_is_32_hex_digits_and_a_missing_text_is_an_empty_one(url: str, text: str) -> None:
    uid = uid_of(url, text)
    assert len(uid) == 32
    assert set(uid) <= set("0123456789abcdef")
    assert uid_of(url, None) == uid_of(url, "")


def test_bytes_that_are_no_text_have_a_hash_too() -> None:
    assert uid_of("http://a.test/\udcff", None) != uid_of("http://a.test/", None)
    assert content_hash(b"ab") == content_hash("ab")


@given(st.integers(0, 999_998))
def test_row_ids_sort_as_their_rows_do(row: int) -> None:
    assert row_id("c" * 16, row) < row_id("c" * 16, row + 1)


@given(st.integers(0, 2**31), st.integers(0, 9), words, st.integers(0, 9))
def test_every_text_of_every_row_has_a_stream_of_its_own(seed: int, round_number: int, uid: str, k: int) -> None:
    here = row_seed(seed, round_number, "caption", "med", uid, k)
    assert 0 <= here < 2**63
    others = [
        row_seed(seed + 1, round_number, "caption", "med", uid, k),
        row_seed(seed, round_number + 1, "caption", "med", uid, k),
        row_seed(seed, round_number, "filter", "med", uid, k),
        row_seed(seed, round_number, "caption", "other", uid, k),
        row_seed(seed, round_number, "caption", "med", uid + "x", k),
        row_seed(seed, round_number, "caption", "med", uid, k + 1),
    ]
    assert here not in others


@given(st.integers(), words)
def test_a_stage_seed_fits_numpy_and_torch(seed: int, part: str) -> None:
    assert 0 <= stage_seed(seed, part) < 2**31


@given(st.dictionaries(words, st.integers() | words | st.none()))
def test_the_order_of_keys_does_not_change_a_fingerprint(settings: dict[str, object]) -> None:
    assert fingerprint(dict(reversed(settings.items()))) == fingerprint(settings)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/anywhere/run/round-2/models/filter", "round-2/filter"),
        ("round-0/models/captioner", "round-0/captioner"),
        ("s3://bucket/run/round-1/models/filter/", "round-1/filter"),
        ("Salesforce/blip-itm-base-coco", "blip-itm-base-coco"),
        ("my_model", "my_model"),
    ],
)
def test_a_models_name_does_not_depend_on_where_it_lies(folder: str, name: str) -> None:
    assert model_name(folder) == name
