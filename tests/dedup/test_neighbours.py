"""Neighbours: exact, inverted file and torch find the same pairs, whatever the threads."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capfilt.dedup import neighbours as room
from capfilt.dedup.neighbours import Neighbours, matches, neighbours, unit_rows
from capfilt.errors import ConfigError

faiss: Any = pytest.importorskip("faiss")


def near_duplicates(rows: int, dim: int = 32, *, seed: int = 0) -> npt.NDArray[np.float16]:
    """Random directions; every third row repeats the one before, a little moved."""
    chance = np.random.default_rng(seed)
    vectors = chance.normal(size=(rows, dim))
    repeats = np.arange(2, rows, 3)
    vectors[repeats] = vectors[repeats - 1] + chance.normal(size=(len(repeats), dim)) * 0.05
    return unit_rows(vectors).astype(np.float16)


def by_hand(vectors: npt.NDArray[Any], min_cosine: float) -> list[tuple[int, int]]:
    exact = unit_rows(vectors).astype(np.float64)
    cosine = np.round(exact @ exact.T, 6)
    return [(int(a), int(b)) for a, b in np.argwhere(np.triu(cosine >= min_cosine, k=1))]


def pairs(found: Neighbours) -> list[tuple[int, int]]:
    return list(zip(found.a.tolist(), found.b.tolist(), strict=True))


def test_faiss_torch_and_the_definition_agree() -> None:
    vectors = near_duplicates(300)
    one, other = neighbours(vectors, 0.95, engine="faiss"), neighbours(vectors, 0.95, engine="torch")
    assert pairs(one) == pairs(other) == by_hand(vectors, 0.95)
    assert len(one.a) >= 90
    assert one.cosine.tobytes() == other.cosine.tobytes()


def test_the_inverted_file_finds_the_near_duplicates() -> None:
    vectors = near_duplicates(3000)
    found = neighbours(vectors, 0.95, engine="faiss", exact_up_to=100)
    assert "IVF" in found.method
    assert "nprobe" in found.method
    assert pairs(found) == by_hand(vectors, 0.95)


@pytest.mark.parametrize("exact_up_to", [100_000, 100])
def test_threads_change_nothing(exact_up_to: int) -> None:
    vectors = near_duplicates(2000)
    threads = faiss.omp_get_max_threads()
    found = []
    try:
        for number in (1, 2):
            faiss.omp_set_num_threads(number)
            found.append(neighbours(vectors, 0.9, engine="faiss", exact_up_to=exact_up_to))
            assert faiss.omp_get_max_threads() == number, "the setting is put back"
    finally:
        faiss.omp_set_num_threads(threads)
    assert pairs(found[0]) == pairs(found[1])
    assert found[0].cosine.tobytes() == found[1].cosine.tobytes()


def test_the_order_of_rows_changes_no_cosine() -> None:
    vectors = near_duplicates(200)
    found = neighbours(vectors, 0.9)
    turned = neighbours(vectors[::-1].copy(), 0.9)
    last = len(vectors) - 1
    assert sorted((last - b, last - a) for a, b in pairs(turned)) == pairs(found)


def test_a_cosine_equal_to_the_threshold_after_rounding_is_a_pair() -> None:
    angle = np.arccos(0.97)
    vectors = np.array([[1, 0], [np.cos(angle), np.sin(angle)]], dtype=np.float32)
    found = neighbours(vectors, 0.97)
    assert pairs(found) == [(0, 1)]
    assert found.cosine[0] == np.float32(0.97)
    assert pairs(neighbours(vectors, 0.970002)) == []


def test_zero_vectors_and_empty_tables_have_no_neighbours() -> None:
    assert pairs(neighbours(np.zeros((3, 4), np.float16), 0.5)) == []
    assert pairs(neighbours(np.zeros((0, 4), np.float16), 0.5)) == []
    assert len(matches(np.zeros((0, 4), np.float16), np.ones((2, 4)), 0.5)[0]) == 0


def test_a_row_keeps_its_strongest_pairs_and_a_clique_stays_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "STRONGEST_PER_ROW", 3)
    vectors = near_duplicates(1).repeat(30, axis=0)
    found = neighbours(vectors, 0.9)
    assert np.bincount(found.a).max() == 3
    assert found.cut_rows == 26
    assert set(found.a.tolist()) == set(range(29)), "each row but the last has a later neighbour"


def test_a_threshold_that_everything_passes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_HITS", 10)
    with pytest.raises(ConfigError, match=r"Raise it"):
        neighbours(np.ones((10, 4)), 0.5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 20), st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.3, 0.8, 0.99]))
def test_matches_are_all_pairs_of_two_sets_above_the_threshold(rows: int, dim: int, seed: int, min_cosine: float) -> None:
    chance = np.random.default_rng(seed)
    queries, keys = chance.normal(size=(rows, dim)), chance.normal(size=(7, dim))
    q, k, cosine = matches(queries, keys, min_cosine)
    exact = np.round(unit_rows(queries).astype(np.float64) @ unit_rows(keys).astype(np.float64).T, 6)
    assert list(zip(q.tolist(), k.tolist(), strict=True)) == [(int(a), int(b)) for a, b in np.argwhere(exact >= min_cosine)]
    assert (cosine >= np.float32(min_cosine)).all()
