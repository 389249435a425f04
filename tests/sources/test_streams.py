"""Ranges of files, plain and compressed."""

import random
from pathlib import Path
from typing import Any

import pytest

from capfilt.sources import streams


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.csv.zst"])
def test_any_range_in_any_order(kit: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WINDOW_BYTES", 1000)
    chance = random.Random(0)
    data = chance.randbytes(300_000)
    path = str(kit.put(tmp_path / name, data))
    for _ in range(60):
        offset, size = chance.randrange(len(data)), chance.randrange(20_000)
        assert streams.read_range(path, name, offset, size) == data[offset : offset + size]


def test_chunks_in_about_their_order_cost_one_pass(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(0).randbytes(1_000_000)
    path = str(kit.put(tmp_path / "x.csv.gz", data))
    opened: list[str] = []
    open_stream = streams.open_stream
    monkeypatch.setattr(streams, "open_stream", lambda path: (opened.append(path), open_stream(path))[1])
    order = list(range(100))
    for at in range(0, 100, 4):  # four at work, in any order
        order[at : at + 4] = reversed(order[at : at + 4])
    for number in order:
        assert streams.read_range(path, "one pass", 10_000 * number, 10_000) == data[10_000 * number : 10_000 * (number + 1)]
    assert opened == [path]


def test_a_window_holds_no_more_than_it_says(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "WINDOW_BYTES", 10_000)
    path = str(kit.put(tmp_path / "x.csv.gz", bytes(20_000_000)))
    stream = streams._Forward(path)
    for number in range(0, 20_000_000, 1_000_000):
        assert len(stream.read(number, 1000)) == 1000
        assert len(stream._window) <= 10_000 + streams.BLOCK_BYTES
