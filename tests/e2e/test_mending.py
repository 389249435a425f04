"""`capfilt verify` and `capfilt retry` on the finished debug run, with its real models: every row comes out bit for bit."""

from collections.abc import Callable
from pathlib import Path

import pytest

Called = tuple[int, str, str]


def test_a_finished_run_is_as_it_was_made(call: Callable[..., Called]) -> None:
    code, told, _ = call("verify", "runs/debug", "--rows", "1000")
    assert code == 0, told
    assert told.endswith("0 difference(s)\n")
    assert " 0 rows made again" not in told


def test_a_flipped_byte_of_a_model_is_found_with_what_mends_it(own: Path, call: Callable[..., Called]) -> None:
    weights = own / "round-0/models/captioner/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    code, told, error = call("verify", "runs/debug", "--rows", "4")
    assert code == 2
    assert "round-0/models/captioner/model.safetensors" in told
    assert "--from round-0/finetune" in told
    assert error.rstrip().endswith("The table says what mends each")


def test_a_retry_of_what_fails_for_good_changes_nothing(own: Path, call: Callable[..., Called]) -> None:
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file() and "events" not in path.parts}
    code, told, _ = call("retry", "runs/debug", "--status", "download_failed", "--error", "http_*")
    assert code == 0
    assert "tried again; new answers: none\nnothing has changed" in told
    after = {path: path.read_bytes() for path in own.rglob("*") if path.is_file() and "events" not in path.parts}
    assert after == before


@pytest.mark.parametrize("arguments", [[], ["--quarantined", "--status", "download_failed"], ["--error", "timeout"]])
def test_a_retry_of_everything_or_nothing_is_refused(call: Callable[..., Called], arguments: list[str]) -> None:
    code, _, error = call("retry", "runs/debug", *arguments)
    assert code == 2
    assert "expected either --status STATUS, with --error or without, or --quarantined" in error
