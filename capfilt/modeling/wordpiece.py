"""Learns a WordPiece vocabulary from counted words.

Knows nothing of how texts are split into words. The tokenizers library's own trainer is not used: it numbers pieces in the
order of a randomly seeded hash map, so that two trainings on the same texts may break ties differently.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise

_Pair = tuple[str, str]


def train_wordpiece(words: Mapping[str, int], size: int) -> list[str]:
    """At most `size` pieces: characters first, then merges of the most frequent neighbours, ties by spelling.

    A piece inside a word begins with "##". Words with a character outside the vocabulary will encode as unknown; characters
    may take at most half of it, the most frequent ones winning.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for i, char in enumerate(word):
            counts[char if i == 0 else "##" + char] += count
    alphabet = sorted(sorted(counts, key=lambda piece: (-counts[piece], piece))[: max(1, size // 2)])
    known = set(alphabet)
    spelled = [([c if i == 0 else "##" + c for i, c in enumerate(word)], count) for word, count in sorted(words.items())]
    spelled = [(pieces, count) for pieces, count in spelled if known.issuperset(pieces)]
    return [*alphabet, *_merges(spelled, size - len(alphabet), known)]


def _merges(words: list[tuple[list[str], int]], wanted: int, known: set[str]) -> list[str]:
    pair_counts: Counter[_Pair] = Counter()
    where: defaultdict[_Pair, set[int]] = defaultdict(set)
    for index, (pieces, count) in enumerate(words):
        for pair in pairwise(pieces):
            pair_counts[pair] += count
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    found: list[str] = []
    while heap and len(found) < wanted:
        negative, pair = heapq.heappop(heap)
        if -negative != pair_counts[pair] or not negative:
            continue  # its count has changed since; the entry with the right one is in the heap too
        merged = pair[0] + pair[1].removeprefix("##")
        if merged not in known:
            known.add(merged)
            found.append(merged)
        touched: set[_Pair] = set()
        for index in where.pop(pair):
            pieces, count = words[index]
            for old in pairwise(pieces):
                pair_counts[old] -= count
                touched.add(old)
            pieces = _join(pieces, pair, merged)
            words[index] = (pieces, count)
            for new in pairwise(pieces):
                pair_counts[new] += count
                where[new].add(index)
                touched.add(new)
        for changed in touched:
            if pair_counts[changed] > 0:
                heapq.heappush(heap, (-pair_counts[changed], changed))
    return found


def _join(pieces: list[str], pair: _Pair, merged: str) -> list[str]:
    joined: list[str] = []
    i = 0
    while i < len(pieces):
        if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == pair:
            joined.append(merged)
            i += 2
        else:
            joined.append(pieces[i])
            i += 1
    return joined
