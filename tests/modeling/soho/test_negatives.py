from collections.abc import Sequence

import pytest
import torch

from capfilt.config.train import ItmNegatives
from capfilt.modeling.batch import Batch
from capfilt.modeling.soho.negatives import Negatives, negative_texts

PAD, CLS, SEP, MASK = SPECIALS = (0, 2, 3, 4)
A, BIG, SMALL, RED, BLUE, RING, STAR, SAND, GRASS = range(10, 19)


def batch_of(texts: Sequence[Sequence[int]], image_ids: Sequence[int]) -> Batch:
    width = max(map(len, texts)) + 2
    ids = torch.tensor([[CLS, *text, SEP] + [PAD] * (width - 2 - len(text)) for text in texts])
    return Batch(torch.zeros(len(texts), 3, 4, 4), ids, (ids != PAD).long(), torch.tensor(image_ids))


def drawn(kind: ItmNegatives, batch: Batch, seed: int = 0) -> Negatives:
    return negative_texts(kind, batch, SPECIALS, torch.Generator().manual_seed(seed))


TEXTS = [
    [A, BIG, RED, RING, SAND],
    [A, BIG, RED, STAR, SAND],  # one word away from the first
    [GRASS, A, SMALL, BLUE, STAR],
    [A, SMALL, BLUE, STAR],
]


def rows(found: Negatives) -> list[list[int]]:
    return [ids[mask.bool()].tolist() for ids, mask in zip(found.ids_BT, found.mask_BT, strict=True)]


@pytest.mark.parametrize("kind", ["random", "near"])
def test_a_negative_is_the_text_of_another_picture(kind: ItmNegatives) -> None:
    batch = batch_of(TEXTS, [7, 8, 9, 9])
    whole = [[CLS, *text, SEP] for text in TEXTS]
    for seed in range(20):
        found = drawn(kind, batch, seed)
        assert found.has_B.all()
        at = [whole.index(row) for row in rows(found)]
        assert at[0] != 0
        assert at[1] != 1
        assert {at[2], at[3]} <= {0, 1}


def test_a_near_negative_mostly_shares_words() -> None:
    batch = batch_of(TEXTS, [5, 6, 7, 8])
    first = [rows(drawn("near", batch, seed))[0] for seed in range(200)]
    nearest = sum(row == [CLS, *TEXTS[1], SEP] for row in first)
    assert nearest > 150
    by_chance = [rows(drawn("random", batch, seed))[0] for seed in range(200)]
    assert 40 < sum(row == [CLS, *TEXTS[1], SEP] for row in by_chance) < 95


def test_a_text_of_the_same_words_is_no_near_negative() -> None:
    batch = batch_of([[A, RED, RING], [RING, A, RED], [A, BLUE, STAR]], [1, 2, 3])
    assert all(rows(drawn("near", batch, seed))[0] == [CLS, A, BLUE, STAR, SEP] for seed in range(20))


@pytest.mark.parametrize("kind", ["random", "near"])
def test_a_batch_of_one_picture_has_no_negatives(kind: ItmNegatives) -> None:
    assert not drawn(kind, batch_of(TEXTS, [4] * 4)).has_B.any()


@pytest.mark.parametrize("kind", ["random", "near"])
def test_the_same_generator_draws_the_same_texts(kind: ItmNegatives) -> None:
    texts = [[A, RED, RING], [A, BLUE, RING], [A, RED, STAR], [A, BLUE, STAR]]  # each has two that are equally near
    batch = batch_of(texts, [5, 6, 7, 8])
    assert torch.equal(drawn(kind, batch, 3).ids_BT, drawn(kind, batch, 3).ids_BT)
    assert len({str(rows(drawn(kind, batch, seed))) for seed in range(20)}) > 1
