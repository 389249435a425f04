"""Batches that shrink: a network that runs out of memory above a size, on a CPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL.Image import Image

from capfilt.captioners import captioner_of
from capfilt.config.decoding import Nucleus
from capfilt.filters import filter_of
from capfilt.modeling.inference import Inference
from capfilt.modeling.memory import in_batches, shrinking

Paint = Callable[[int], Image]
WORDS = ["a red disc", "a small blue star"]


def fits(most: int, ran: list[tuple[range, int]]) -> Callable[[range, int], list[int]]:
    """Work that a batch of more than `most` rows does not survive."""

    def run(rows: range, size: int) -> list[int]:
        ran.append((rows, size))
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(rows)

    return run


@pytest.mark.parametrize("most", [1, 2, 3, 8, 99])
@pytest.mark.parametrize("count", [0, 1, 8, 21])
def test_every_row_is_done_once_and_in_order_in_batches_that_fit(most: int, count: int) -> None:
    ran: list[tuple[range, int]] = []
    with shrinking() as shrunk:
        done = [row for rows in in_batches(count, 8, fits(most, ran)) for row in rows]
    assert done == list(range(count))
    sizes = [size for _, size in ran]
    assert sizes == sorted(sizes, reverse=True), "a size that did not fit is not tried again"
    expected = {1: "8 -> 1", 2: "8 -> 2", 3: "8 -> 2"}.get(most) if count else None
    assert shrunk.told == expected


def test_the_next_chunk_begins_at_the_full_size() -> None:
    ran: list[tuple[range, int]] = []
    for _ in range(2):
        with shrinking():
            list(in_batches(8, 8, fits(4, ran)))
    assert [size for _, size in ran] == [8, 4, 4, 8, 4, 4]


def test_outside_a_chunk_a_call_still_shrinks() -> None:
    ran: list[tuple[range, int]] = []
    assert [row for rows in in_batches(4, 4, fits(2, ran)) for row in rows] == [0, 1, 2, 3]


def test_one_row_that_does_not_fit_and_other_errors_are_not_hidden() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(4, 4, fits(0, [])))
    with pytest.raises(RuntimeError, match="boom"):
        list(in_batches(4, 4, lambda rows, size: (_ for _ in ()).throw(RuntimeError("boom"))))


def test_what_the_caller_does_with_a_batch_is_not_tried_again() -> None:
    ran: list[tuple[range, int]] = []

    def use() -> None:
        for _ in in_batches(4, 4, fits(4, ran)):
            raise torch.OutOfMemoryError("the caller's own")

    with pytest.raises(torch.OutOfMemoryError, match="the caller's own"):
        use()
    assert len(ran) == 1


def small(folder: Path, most: int) -> Inference:
    """A network that cannot encode more than `most` pictures at once."""
    network = Inference.load(str(folder), batch_size=4, dtype="float32", device="cpu")
    encode = network.model.encode_image

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(pixels)

    network.model.encode_image = encode_image  # type: ignore[method-assign]
    return network


def test_a_captioner_says_the_same_texts_in_halved_batches(med_folder: Path, paint: Paint) -> None:
    images, seeds = [paint(i) for i in range(6)], [[i, 10 + i] for i in range(6)]
    decode = Nucleus(kind="nucleus", top_p=0.9, min_length=2, max_length=8)
    with shrinking() as shrunk:
        made, whole = (
            captioner_of(small(med_folder, most), prompt="a picture of ", decode=decode).caption(images, seeds=seeds)
            for most in (2, 99)
        )
    assert [[caption.text for caption in row] for row in made] == [[caption.text for caption in row] for row in whole]
    assert shrunk.told == "4 -> 2"


def test_a_filter_gives_the_same_scores_in_halved_batches(med_folder: Path, paint: Paint) -> None:
    images, texts = [paint(i) for i in range(6)], [WORDS, [], WORDS[:1], WORDS, WORDS[1:], []]
    with shrinking() as shrunk:
        made = filter_of(small(med_folder, 1)).score(images, texts)
    assert shrunk.told == "4 -> 1"
    whole = filter_of(small(med_folder, 99)).score(images, texts)
    assert made.itm is not None
    assert whole.itm is not None
    for mine, theirs in zip(made.itm, whole.itm, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
    assert made.embedding == pytest.approx(whole.embedding, abs=1e-6)
