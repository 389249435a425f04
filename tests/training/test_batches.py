import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.architectures import load_architecture
from capfilt.config.train import Mix
from capfilt.modeling.tokenizer import Tokenizer
from capfilt.training.batches import Batches, EndlessShuffle, Tokens, split_batch, split_mix
from capfilt.training.data import read_pairs


@given(n=st.integers(1, 30), start=st.integers(0, 100), count=st.integers(1, 80), seed=st.integers(0, 2**31))
def test_any_part_of_the_shuffle_is_found_from_its_position_alone(n, start, count, seed):
    whole = EndlessShuffle(n, seed).take(0, start + count)
    assert EndlessShuffle(n, seed).take(start, count).tolist() == whole[start:].tolist()


@given(n=st.integers(1, 40), seed=st.integers(0, 2**31), epoch=st.integers(0, 5))
def test_every_epoch_shows_every_number_once(n, seed, epoch):
    assert sorted(EndlessShuffle(n, seed).take(epoch * n, n).tolist()) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own():
    shuffle = EndlessShuffle(50, 1)
    assert shuffle.take(0, 50).tolist() != shuffle.take(50, 50).tolist()
    assert shuffle.take(0, 50).tolist() != EndlessShuffle(50, 2).take(0, 50).tolist()


@pytest.mark.parametrize(
    ("size", "share", "expected"),
    [(32, 0.2, (26, 6)), (32, 0.0, (32, 0)), (32, 1.0, (0, 32)), (10, 0.25, (7, 3)), (8, 0.01, (7, 1)), (8, 0.99, (1, 7))],
)
def test_the_human_share_is_rounded_half_up_and_never_to_nothing(size, share, expected):
    assert split_batch(size, share) == expected


@pytest.mark.parametrize("human", [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9])
def test_a_web_share_of_none_is_no_pair(human):
    web, people, labelled = split_mix(64, Mix(web=0, human=human, labelled=1 - human))
    assert (web, people + labelled) == (0, 64)
    assert abs(people - 64 * human) <= 0.5 + 1e-9


def test_texts_are_cut_to_the_longest_of_the_batch_rounded_up_to_four():
    texts = ["one", "one two three four five", "one two three four five six seven eight nine ten eleven twelve"]
    tokenizer = Tokenizer.train(texts, 200)
    tokens = Tokens(texts, tokenizer, max_length=10)
    for index, width in (([0], 4), ([0, 1], 8), ([2, 0], 10)):
        ids, mask = tokens.take(np.array(index))
        assert ids.shape == mask.shape == (len(index), width)
        expected, expected_mask = tokenizer.encode_batch([texts[i] for i in index], 10, pad_to=width)
        assert (ids == expected).all()
        assert (mask == expected_mask).all()


@pytest.fixture
def make_batches(tmp_path, pool_file, human_file, architecture_file):
    architecture = load_architecture(architecture_file)
    web = read_pairs([pool_file], "pool", 16, spool=tmp_path / "w")
    human = read_pairs([human_file], "human", 16, spool=tmp_path / "h")
    tokenizer = Tokenizer.train([*web.texts, *human.texts, "a picture of"], 80)

    def make(web_count: int = 3, human_count: int = 2, **options) -> Batches:
        return Batches([(web, web_count), (human, human_count)], tokenizer, architecture, seed=5, **options)

    return make, tokenizer, web, human


def test_a_batch_depends_on_its_step_alone(make_batches):
    make, *_ = make_batches
    in_order = [make()(step) for step in (0, 1, 2, 7)][-1]
    alone = make()(7)
    for name in ("pixels_BCHW", "ids_BT", "mask_BT", "image_ids_B"):
        assert torch.equal(getattr(alone, name), getattr(in_order, name))


def test_each_text_stands_with_its_own_picture(make_batches):
    make, tokenizer, web, human = make_batches
    own = {
        tokenizer.decode(tokenizer.encode_batch([text], 14)[0][0]): (pairs, i)
        for pairs in (web, human)
        for i, text in enumerate(pairs.texts)
    }
    batches = make()
    assert batches.steps_per_epoch == 4
    for step in range(6):
        batch = batches(step)
        for row, (ids, image_id) in enumerate(zip(batch.ids_BT, batch.image_ids_B, strict=True)):
            pairs, i = own[tokenizer.decode(ids.tolist())]
            assert pairs is (web if row < 3 else human)
            assert pairs.image_ids[pairs.picture_of[i]] == image_id
            assert batch.pixels_BCHW.shape == (5, 3, 16, 16)


def test_the_prompt_stands_before_every_text(make_batches):
    make, tokenizer, *_ = make_batches
    prompt = tokenizer.encode_prompt("a picture of ").tolist()
    assert (make(prompt="a picture of ")(0).ids_BT[:, : len(prompt)] == torch.tensor(prompt)).all()


def test_the_prompt_takes_nothing_from_a_long_text(make_batches, tmp_path, picture, write_human, architecture_file):
    _, tokenizer, *_ = make_batches
    long = "a red square " * 3 + "a green square " * 3
    path = write_human([{"key": "k", "image": picture(0), "captions": [long]}], "long.parquet")
    pairs = read_pairs([path], "human", 16, spool=tmp_path / "l")
    architecture = load_architecture(architecture_file)
    plain, prompted = (
        Batches([(pairs, 1)], tokenizer, architecture, seed=0, prompt=prompt)(0).ids_BT[0].tolist()
        for prompt in ("", "a picture of ")
    )
    prompt = tokenizer.encode_prompt("a picture of ").tolist()
    assert len(plain) == architecture.max_text_length
    assert prompted == prompt + plain[1:]


def test_other_data_have_another_content(make_batches):
    make, *_ = make_batches
    assert make().content() == make().content()
    assert len({make().content(), make(4, 2).content(), make(prompt="a ").content(), make(0, 2).content()}) == 4
