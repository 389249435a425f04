from pathlib import Path

from capfilt.run import files
from capfilt.run.steps import Steps, key_of, model_identity


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
