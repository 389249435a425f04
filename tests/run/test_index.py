import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.config.read import UrlList
from capfilt.errors import InputError, RunStateError
from capfilt.plan import InputFile
from capfilt.run import index


def scan(*paths: str, known: list[InputFile] | None = None, **settings: Any) -> list[InputFile]:
    return index.scan(UrlList(paths=list(paths), **settings), known)


def test_a_file_is_known_by_its_row_groups(web: Path) -> None:
    (file,) = scan(str(web))
    assert (file.path, file.row_groups, file.size) == (str(web), (6, 4), web.stat().st_size)


def test_a_glob_is_sorted_and_a_file_named_twice_counts_once(web: Path) -> None:
    for name in ("b", "a"):
        shutil.copy(web, web.with_name(f"{name}.parquet"))
    found = scan(str(web.with_name("*.parquet")), str(web))
    assert [Path(file.path).name for file in found] == ["a.parquet", "b.parquet", "web.parquet"]


def test_a_copied_file_keeps_its_etag_and_a_changed_one_does_not(web: Path) -> None:
    copy = web.with_name("copy.parquet")
    shutil.copyfile(web, copy)
    other = web.with_name("other.parquet")
    pq.write_table(pa.table({"url": [f"http://y/{i}" for i in range(10)], "text": ["t"] * 10}), other, row_group_size=6)
    first, second, third = (scan(str(path))[0].etag for path in (web, copy, other))
    assert first == second != third


def test_a_relative_path_stays_relative(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(web.parent)
    assert [file.path for file in scan("web.parquet")] == ["web.parquet"]
    assert [file.path for file in scan("*.parquet")] == ["web.parquet"]


def test_a_missing_file_and_a_missing_column_are_input_errors(web: Path) -> None:
    with pytest.raises(InputError, match="expected at least one file"):
        scan(str(web.with_name("no*.parquet")))
    with pytest.raises(InputError, match=r"expected a column `caption`, found `url`, `text`\. "):
        scan(str(web), columns={"text": "caption"})
    with pytest.raises(InputError, match=r"expected a column `punsafe`, found `url`, `text`\. .*read\.keep_columns"):
        scan(str(web), keep_columns=["punsafe"])


def test_a_file_that_is_not_parquet_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"hello" * 100)
    with pytest.raises(InputError, match=r"found 1 of 1 unreadable: .*x\.parquet"):
        scan(str(tmp_path / "x.parquet"))


def test_the_index_survives_saving_even_when_the_run_moves(web: Path) -> None:
    run = web.parent
    found = scan(str(web))
    index.save(str(run), found)
    assert index.load(str(run)) == found
    moved = run.with_name(run.name + "-moved")
    shutil.copytree(run, moved)
    (there,) = index.load(str(moved)) or []
    assert there.path == str(moved / "web.parquet")
    shutil.rmtree(moved)


def test_a_damaged_index_says_how_to_go_on(web: Path) -> None:
    index.save(str(web.parent), scan(str(web)))
    path = web.parent / "inputs.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunStateError, match=r"inputs.parquet: expected the list of the run's inputs.*Delete it"):
        index.load(str(web.parent))


def test_appended_files_extend_and_changed_or_lost_ones_refuse(web: Path) -> None:
    known = scan(str(web))
    later = web.with_name("a_later.parquet")
    shutil.copyfile(web, later)
    both = scan(str(web.with_name("*.parquet")), known=known)
    assert [file.path for file in both] == [str(web), str(later)]
    with pytest.raises(RunStateError, match="found none"):
        scan(str(web), known=both)
    pq.write_table(pa.table({"url": ["x"], "text": ["t"]}), web)
    with pytest.raises(RunStateError, match=r"expected the input .* as the run first saw it"):
        scan(str(web), known=known)
