"""Pixels made ahead, on a thread, without a GPU: the same pixels, in order, whatever batch is asked for."""

import threading

import pytest
import torch
from torch import Tensor

from capfilt.modeling.ahead import Ahead

CPU = torch.device("cpu")


def pixels_of(here: range, size: int) -> Tensor:
    return torch.full((size, 3, 2, 2), here.start + 10 * here.stop, dtype=torch.uint8)


@pytest.mark.parametrize("looks_ahead", [True, False])
def test_every_batch_gets_its_own_pixels_also_when_halved(looks_ahead: bool) -> None:
    with Ahead(pixels_of, 10, CPU, looks_ahead=looks_ahead) as ahead:
        for here, size in ((range(4), 4), (range(4, 8), 4), (range(4, 6), 2), (range(6, 8), 2), (range(8, 10), 2)):
            assert torch.equal(ahead.take(here, size), pixels_of(here, size))


def test_the_next_batch_is_made_while_this_one_is_worked_on() -> None:
    made: list[tuple[int, int]] = []
    is_made = threading.Event()

    def make(here: range, size: int) -> Tensor:
        made.append((here.start, threading.get_ident()))
        if here.start == 4:
            is_made.set()
        return pixels_of(here, size)

    with Ahead(make, 6, CPU, looks_ahead=True) as ahead:
        ahead.take(range(4), 4)
        assert is_made.wait(10), "made before it is asked for"
        ahead.take(range(4, 6), 4)
    assert [start for start, _ in made] == [0, 4]
    assert made[0][1] == threading.get_ident() != made[1][1]


def test_a_picture_that_cannot_be_made_raises_where_it_is_asked_for() -> None:
    def make(here: range, size: int) -> Tensor:
        if here.start:
            raise ValueError("no picture")
        return pixels_of(here, size)

    with Ahead(make, 8, CPU, looks_ahead=True) as ahead:
        ahead.take(range(4), 4)
        with pytest.raises(ValueError, match="no picture"):
            ahead.take(range(4, 8), 4)
