from pathlib import Path

import pytest

from capfilt.run import files
from capfilt.run.steps import Steps, content, key_of, model_identity


def test_a_finished_step_is_skipped_until_its_key_or_its_file_changes(tmp_path: Path) -> None:
    steps, made = Steps(str(tmp_path)), []

    def make() -> None:
        made.append(1)
        files.put(str(tmp_path / "out.txt"), b"x")

    assert steps.run("round-1/dedup", "k", ["out.txt"], make)
    assert not steps.run("round-1/dedup", "k", ["out.txt"], make)
    assert steps.run("round-1/dedup", "other", ["out.txt"], make)
    (tmp_path / "out.txt").unlink()
    assert steps.run("round-1/dedup", "other", ["out.txt"], make)
    assert len(made) == 3


def test_a_step_that_was_interrupted_finds_its_work_again_and_another_key_clears_it(tmp_path: Path) -> None:
    steps, seen = Steps(str(tmp_path)), []

    def stop() -> None:
        (tmp_path / "work").mkdir(exist_ok=True)
        seen.append((tmp_path / "work" / "checkpoint").exists())
        (tmp_path / "work" / "checkpoint").touch()
        raise KeyboardInterrupt

    for key in ("k", "k", "other"):
        try:
            steps.run("round-0/pretrain", key, ["model"], stop, clear=["work"])
        except KeyboardInterrupt:
            continue
    assert seen == [False, True, False]


def test_the_time_of_a_phase_is_kept_even_if_it_fails(tmp_path: Path) -> None:
    steps = Steps(str(tmp_path))
    try:
        with steps.timed("pool"):
            raise ValueError
    except ValueError:
        pass
    (line,) = files.lines(str(tmp_path), "phases")
    assert line["phase"] == "pool"
    assert line["seconds"] >= 0


def test_a_model_is_known_by_its_bytes_and_a_name_by_itself(tmp_path: Path) -> None:
    assert model_identity("hub/name") == "hub/name"
    for weights in (b"a", b"b"):
        files.put(str(tmp_path / weights.decode() / "model.safetensors"), weights)
    assert model_identity(str(tmp_path / "a")) != model_identity(str(tmp_path / "b"))
    assert key_of("x", 1) != key_of("x", 2)


def test_a_published_model_is_known_by_all_its_files(tmp_path):
    for name, weights, config in (("a", b"1", b"{}"), ("b", b"2", b"{}"), ("c", b"1", b"{ }"), ("d", b"1", b"{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pytorch_model.bin").write_bytes(weights)
        (tmp_path / name / "config.json").write_bytes(config)
    (tmp_path / "m.pth").write_bytes(b"1")
    (tmp_path / "n.pth").write_bytes(b"2")
    found = {name: model_identity(str(tmp_path / name)) for name in ("a", "b", "c", "d", "m.pth", "n.pth")}
    assert found["a"] == found["d"]
    assert len(set(found.values())) == 5


def test_a_step_is_done_again_when_the_files_it_read_hold_something_else(tmp_path: Path) -> None:
    steps, made = Steps(str(tmp_path)), []

    def run(*inputs: str | None) -> str:
        key = steps.key_with("round-1/dedup", "k", inputs)
        steps.run("round-1/dedup", key, [], lambda: made.append(inputs), inputs=inputs)
        return key

    first = run("a", "b")
    assert run("a", "b") == first
    assert run("a", None) == first, "a file that is gone changes nothing"
    assert made == [("a", "b")]
    assert run("a", "c") != first
    assert run("a", "b") == first
    assert len(made) == 3
    assert steps.key_with("round-1/dedup", "k", []) == "k"


def test_a_step_of_a_version_that_did_not_look_stays_done_until_the_files_change(tmp_path: Path) -> None:
    steps, made = Steps(str(tmp_path)), []

    def run(*inputs: str | None) -> str:
        key = steps.key_with("round-1/dedup", "k", inputs)
        steps.run("round-1/dedup", key, [], lambda: made.append(inputs), inputs=inputs)
        return key

    steps.run("round-1/dedup", "k", [], lambda: None)
    assert run(None) == run("a") == run("a") == "k"
    assert made == []
    assert run("b") != "k"
    assert made == [("b",)]


def test_a_step_that_such_a_version_began_goes_on(tmp_path: Path) -> None:
    steps = Steps(str(tmp_path))

    def stop() -> None:
        raise KeyboardInterrupt

    for inputs in ((), ("a",), ("a",)):
        key = steps.key_with("round-1/pretrain", "k", inputs)
        assert key == "k"
        with pytest.raises(KeyboardInterrupt):
            steps.run("round-1/pretrain", key, [], stop, inputs=inputs)
    assert content(str(tmp_path / "none")) is content(str(tmp_path)) is None
    assert steps.key_with("round-1/pretrain", "k", ["b"]) != "k"
