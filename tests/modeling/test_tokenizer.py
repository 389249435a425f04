import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capfilt.errors import CheckpointError
from capfilt.modeling.tokenizer import SPECIALS, Tokenizer

TEXTS = [
    f"a {size} {colour} {shape}" for size in ("small", "large") for colour in ("red", "blue") for shape in ("circle", "star")
]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 120)


def test_training_twice_in_any_order_gives_the_same_vocabulary(tmp_path: Path) -> None:
    texts = TEXTS * 3 + ["zyx wvu", "IMG_0042.jpg", "Кошка на окне"]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Tokenizer.train(texts, 90).save(tmp_path / "a")
    random.Random(1).shuffle(texts)
    Tokenizer.train(texts, 90).save(tmp_path / "b")
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_frequent_words_become_single_tokens_and_the_bound_is_kept(tokenizer: Tokenizer) -> None:
    assert len(Tokenizer.train(TEXTS, 40)) == 40
    assert len(tokenizer) <= 120
    ids, _ = tokenizer.encode_batch(["a small red circle"], 30)
    assert ids.shape == (1, 6)


def test_dec_and_enc_are_the_last_two_ids(tokenizer: Tokenizer) -> None:
    assert (tokenizer.dec_id, tokenizer.enc_id) == (len(tokenizer) - 2, len(tokenizer) - 1)
    bert = Tokenizer.from_tokens([*SPECIALS, "cat", "##s"])
    assert (bert.dec_id, bert.enc_id, len(bert)) == (7, 8, 9)


def test_a_batch_is_padded_on_the_right_and_cut_texts_keep_their_end(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode_batch(["a red star", "a", "a small red circle a small red circle", ""], 6)
    assert ids.dtype == mask.dtype == "int64"
    assert mask.sum(1).tolist() == [5, 3, 6, 2]
    assert (ids[:, 0] == tokenizer.cls_id).all()
    assert [row[count - 1] for row, count in zip(ids, mask.sum(1), strict=True)] == [tokenizer.sep_id] * 4
    assert ((ids == tokenizer.pad_id) == (mask == 0)).all()
    assert tokenizer.encode_batch(["a"], 6, pad_to=8)[0].shape == (1, 8)


def test_a_prompt_opens_the_text_and_does_not_end_it(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode_prompt("a red ")
    whole, _ = tokenizer.encode_batch(["a red star"], 10)
    assert prompt.tolist() == whole[0, : len(prompt)].tolist()
    assert tokenizer.sep_id not in prompt


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "small", "large", "red", "blue", "circle", "star"]), max_size=8))
def test_a_known_text_comes_back(words: list[str]) -> None:
    tokenizer = Tokenizer.train(TEXTS, 120)
    ids, _ = tokenizer.encode_batch([" ".join(words)], 64)
    assert tokenizer.decode(ids[0]) == " ".join(words)


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=40))
def test_any_text_encodes_within_the_bounds(text: str) -> None:
    tokenizer = Tokenizer.train(TEXTS, 60)
    ids, mask = tokenizer.encode_batch([text], 12)
    assert 2 <= ids.shape[1] <= 12
    assert 0 <= ids.min() <= ids.max() < len(tokenizer)
    assert mask.all()


def test_decoding_stops_at_the_end_and_leaves_specials_out(tokenizer: Tokenizer) -> None:
    star = tokenizer.encode_batch(["star"], 5)[0][0, 1]
    assert tokenizer.decode([tokenizer.dec_id, star, tokenizer.sep_id, star, 0]) == "star"


def test_a_saved_tokenizer_loads_to_an_equal_one(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode_batch(TEXTS, 10)[0].tolist() == tokenizer.encode_batch(TEXTS, 10)[0].tolist()
    assert len(loaded) == len(tokenizer)


def test_a_vocabulary_without_specials_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("cat\ndog\n")
    with pytest.raises(CheckpointError, match=r"found no \[PAD\]"):
        Tokenizer.from_vocab(tmp_path / "vocab.txt")
    with pytest.raises(CheckpointError, match="found no file"):
        Tokenizer.load(tmp_path)
