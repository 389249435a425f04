import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from capfilt.errors import OutputError, RunStateError
from capfilt.plan import Chunk
from capfilt.run import files
from capfilt.run.commit import chunk_path, commit
from capfilt.run.ledger import Ledger


def test_the_ledger_is_what_the_files_say(tmp_path: Path, make_pool: Callable[[Path], list[Chunk]]) -> None:
    chunks = make_pool(tmp_path)
    done = Ledger(str(tmp_path / "pool"), "f", redo="read").done()
    assert sorted(done) == [chunk.chunk_id for chunk in chunks]
    assert {footer.counts["ok"] for footer in done.values()} == {3}


def test_a_torn_file_is_set_aside_and_its_chunk_open_again(tmp_path: Path, make_pool: Callable[[Path], list[Chunk]]) -> None:
    chunks = make_pool(tmp_path)
    torn = Path(chunk_path(str(tmp_path / "pool"), chunks[1].chunk_id))
    torn.write_bytes(torn.read_bytes()[:-10])
    assert chunks[1].chunk_id not in Ledger(str(tmp_path / "pool"), "f", redo="read").done()
    assert not torn.exists()
    assert torn.with_name(torn.name + ".torn").exists()


def test_a_disk_that_does_not_answer_loses_no_chunk(
    tmp_path: Path, make_pool: Callable[[Path], list[Chunk]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pool(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "pool").iterdir()}

    def fails(path: str) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "open_file", fails)
        with pytest.raises(
            OutputError, match=r"found Input/output error\. It was left as it is; run the same command again.*delete the file"
        ):
            Ledger(str(tmp_path / "pool"), "f", redo="read").done()
    assert {path.name: path.read_bytes() for path in (tmp_path / "pool").iterdir()} == before
    assert len(Ledger(str(tmp_path / "pool"), "f", redo="read").done()) == len(before)


def test_a_file_under_another_chunks_name_does_not_count(tmp_path: Path, make_pool: Callable[[Path], list[Chunk]]) -> None:
    chunks = make_pool(tmp_path)
    first, second = (Path(chunk_path(str(tmp_path / "pool"), chunk.chunk_id)) for chunk in chunks[:2])
    first.replace(second)
    assert len(Ledger(str(tmp_path / "pool"), "f", redo="read").done()) == 3


def test_files_of_other_settings_are_refused_with_the_stage_to_redo(
    tmp_path: Path, make_pool: Callable[[Path], list[Chunk]]
) -> None:
    make_pool(tmp_path)
    with pytest.raises(RunStateError, match=r"expected fingerprint g, found f.*--from round-1/caption"):
        Ledger(str(tmp_path / "pool"), "g", redo="round-1/caption").done()


def test_a_file_made_from_another_pool_chunk_goes_and_its_chunk_is_open_again(
    tmp_path: Path, make_pool: Callable[[Path], list[Chunk]], pool_table: Callable[..., Any]
) -> None:
    first, second, *_ = (chunk.chunk_id for chunk in make_pool(tmp_path))
    for name, made_from in ((first, "a"), (second, "b")):
        table = pool_table(name, [1])
        commit(table, str(tmp_path / "c"), chunk_id=name, fingerprint="f", stage="candidates", made_from=made_from)
    done = Ledger(str(tmp_path / "c"), "f", redo="round-1/caption", made_from={first: "a", second: "new"}).done()
    assert list(done) == [first]
    assert not Path(chunk_path(str(tmp_path / "c"), second)).exists()


def test_no_folder_is_an_empty_ledger(tmp_path: Path) -> None:
    assert Ledger(str(tmp_path / "pool"), "f", redo="read").done() == {}
