"""Groups: connected, named by their smallest member, whatever the order of the pairs."""

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from capfilt.dedup.groups import components, duplicate_groups, find

edges = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40)


def by_hand(pairs: list[tuple[int, int]], rows: int) -> list[int]:
    label = list(range(rows))
    for _ in range(rows):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    return label


@settings(max_examples=200, deadline=None)
@given(edges, st.randoms())
def test_components_are_the_smallest_connected_row_in_any_order(pairs: list[tuple[int, int]], random: Random) -> None:
    expected = by_hand(pairs, 30)
    random.shuffle(pairs)
    a, b = np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.int64)
    assert components(a, b, 30).tolist() == expected


def test_a_long_chain_is_one_group() -> None:
    order = np.random.default_rng(0).permutation(50_000)
    assert components(order[:-1], order[1:], len(order)).max() == 0


def test_equal_bytes_count_at_any_threshold_and_cosines_from_theirs() -> None:
    a, b = np.array([b"r1", b"r2", b"r5"]), np.array([b"r2", b"r3", b"r6"])
    cosine, is_exact = np.array([0.96, 0.98, 0.5], np.float32), np.array([False, False, True])
    groups = duplicate_groups(a, b, cosine, is_exact, 0.97)
    assert groups.members.tolist() == [b"r2", b"r3", b"r5", b"r6"]
    assert groups.names(np.arange(4)).tolist() == [b"r2", b"r2", b"r5", b"r5"]
    assert duplicate_groups(a, b, cosine, is_exact, 0.96).names(np.arange(3)).tolist() == [b"r1"] * 3


def test_find_tells_strangers_from_members() -> None:
    number, is_there = find(np.array([b"b", b"d"]), np.array([b"a", b"b", b"c", b"d", b"longer"]))
    assert is_there.tolist() == [False, True, False, True, False]
    assert number[is_there].tolist() == [0, 1]
    assert find(np.zeros(0, "S1"), np.array([b"a"]))[1].tolist() == [False]
