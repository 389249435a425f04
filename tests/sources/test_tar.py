"""WebDataset tars: keys, endings, and tars that break off."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from capfilt.errors import InputError
from capfilt.sources.scan import scan


def config(kit: Any, path: Path, **settings: Any) -> Any:
    return kit.section(kind="webdataset", paths=[str(path)], **settings)


def test_keys_end_at_the_first_dot_and_other_members_are_passed_over(kit: Any, tmp_path: Path) -> None:
    image = kit.pairs[0].image
    members = [
        ("readme", b"hello"),
        ("v1.0/a.seg.png", b"a mask"),
        ("v1.0/a.JPG", image),
        ("v1.0/a.txt", b"one"),
        ("v1.0/a.json", b'{"txt": "not this", "jpg": "nor that", "license": "cc", "width": "7"}'),
        ("v1.0/b.json", b"no json"),
        ("v1.0/b.txt", "zwölf".encode()),
        ("v1.0/b.webp", image),
        ("v1.0/c.txt", b"no picture"),
    ]
    path = kit.put(tmp_path / "x.tar", kit.tar_bytes(members))
    table = kit.read_all(config(kit, path, keep_columns=["license", "width"]))
    assert table["text"].to_pylist() == ["one", "zwölf", "no picture"]
    assert table["image"].to_pylist() == [image, image, None]
    assert table["status"].to_pylist() == ["ok", "ok", "image_invalid"]
    assert table["error"].to_pylist() == [None, None, "no_image"]
    assert table["upstream"].to_pylist()[:2] == [{"license": "cc", "width": 7}, {"license": None, "width": None}]


def test_endings_and_fields_can_be_mapped(kit: Any, tmp_path: Path) -> None:
    members = [("a.jpg", b"small"), ("a.large.jpg", kit.pairs[0].image), ("a.json", b'{"alt": "words", "src": "http://a"}')]
    path = kit.put(tmp_path / "x.tar", kit.tar_bytes(members))
    table = kit.read_all(config(kit, path, columns={"image": "large.jpg", "text": "alt", "url": "src"}))
    assert table["image"].to_pylist() == [kit.pairs[0].image]
    assert (table["text"].to_pylist(), table["url"].to_pylist()) == (["words"], ["http://a"])


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_keep_their_extra_header(kit: Any, tmp_path: Path, form: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for number, pair in enumerate(kit.pairs):
            for ending, data in (("jpg", pair.image), ("txt", pair.text.encode())):
                info = tarfile.TarInfo(f"{'deep/' * 40}é{number:06d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    table = kit.read_all(config(kit, kit.put(tmp_path / "x.tar", out.getvalue())))
    assert table["text"].to_pylist() == [pair.text for pair in kit.pairs]
    assert table["image"].to_pylist() == [pair.image for pair in kit.pairs]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("share", [0.3, 0.31, 0.5, 0.77, 0.8])
def test_a_tar_that_breaks_off_is_used_up_to_there(kit: Any, tmp_path: Path, ending: str, share: float) -> None:
    path = kit.put(tmp_path / f"x.{ending}", kit.tar_bytes(kit.samples(kit.pairs)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    section = config(kit, path)
    (file,) = scan(section)
    assert 0 < file.rows < 20
    assert file.problem is not None
    assert file.problem.startswith(f"breaks off after {file.rows} rows, at byte ")
    table = kit.read_all(section)
    assert table["text"].to_pylist() == [pair.text for pair in kit.pairs[: file.rows]]
    assert table["image"].to_pylist() == [pair.image for pair in kit.pairs[: file.rows]]


def test_a_tar_without_end_mark_is_read_whole_with_a_warning(kit: Any, tmp_path: Path) -> None:
    data = kit.tar_bytes(kit.samples(kit.pairs))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    (file,) = scan(config(kit, kit.put(tmp_path / "x.tar", data[:end])))
    assert (file.rows, file.problem) == (
        20,
        f"breaks off after 20 rows, at byte {end:,} (no end mark); what comes after is not read",
    )


def test_a_tar_with_nothing_readable_is_refused(kit: Any, tmp_path: Path) -> None:
    whole = kit.tar_bytes(kit.samples(kit.pairs))
    for data in (b"no tar at all" * 100, whole[:600]):
        with pytest.raises(InputError, match=r"1 of 1 unreadable: `.*x\.tar`"):
            scan(config(kit, kit.put(tmp_path / "x.tar", data)))


def test_a_tar_that_was_exchanged_behind_the_runs_back_is_told(kit: Any, tmp_path: Path) -> None:
    path = kit.put(tmp_path / "x.tar", kit.tar_bytes(kit.samples(kit.pairs)))
    section = config(kit, path)
    index = scan(section)
    kit.put(path, kit.tar_bytes(kit.samples(kit.pairs[:3])))
    with pytest.raises(InputError, match="has changed since the run began"):
        kit.read_all(section, index)
