"""Duplicate groups: the connected sets of rows that pairs make at a threshold.

A group is named by its smallest row id, so the name does not depend on the order of the pairs. Knows nothing about scores.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from capfilt.dedup.neighbours import DIGITS

IntArray = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class Groups:
    """Rows that have a duplicate. `members`: sorted row ids; `group[i]`: the number, in `members`, of i's smallest member."""

    members: Bytes
    group: IntArray

    def __len__(self) -> int:
        return len(self.members)

    def names(self, numbers: IntArray) -> Bytes:
        """Group names of the members with these numbers."""
        return self.members[self.group[numbers]]


def duplicate_groups(a: Bytes, b: Bytes, cosine: npt.NDArray[Any], is_exact: npt.NDArray[np.bool_], min_cosine: float) -> Groups:
    """Groups over pairs (a, b) with cosine >= `min_cosine`; pairs of equal bytes (`is_exact`) always count."""
    counts = is_exact | (np.round(cosine.astype(np.float64), DIGITS) >= round(min_cosine, DIGITS))
    members, number = np.unique(np.concatenate([a[counts], b[counts]]), return_inverse=True)
    half = int(counts.sum())
    return Groups(members, components(number[:half], number[half:], len(members)))


def components(a: IntArray, b: IntArray, rows: int) -> IntArray:
    """Smallest row number connected with each of `rows` rows by the edges (a, b).

    Union-find for whole arrays: each round hangs every root below the smallest root it touches and flattens the trees.
    """
    label = np.arange(rows, dtype=np.int64)
    while True:
        root_a, root_b = label[a], label[b]
        low = np.minimum(root_a, root_b)
        if np.array_equal(root_a, root_b):
            return label
        np.minimum.at(label, root_a, low)
        np.minimum.at(label, root_b, low)
        while not np.array_equal(flat := label[label], label):
            label = flat


def find(members: Bytes, row_ids: Bytes) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """(number in the sorted `members`, whether it is there) of each row id."""
    if len(members) == 0:
        return np.zeros(len(row_ids), np.int64), np.zeros(len(row_ids), np.bool_)
    at = np.minimum(np.searchsorted(members, row_ids), len(members) - 1)
    return at.astype(np.int64), members[at] == row_ids
