"""Files that are missing, empty, damaged, appended, changed or far away."""

from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest

from capfilt.config.read import Img2dataset, ParquetImages
from capfilt.config.train import CapfiltShards
from capfilt.errors import InputError, RunStateError
from capfilt.plan import make_chunks
from capfilt.sources.scan import content_of, scan
from capfilt.stages.read import read_chunk


def csv_file(kit: Any, path: Path, pairs: list[Any]) -> str:
    return str(kit.put(path, kit.csv_bytes([["url", "text"], *([pair.url, pair.text] for pair in pairs)])))


# ── what is found without mapping ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["cc.tsv", "cc.tsv.gz"])
def test_conceptual_captions_have_no_header(kit: Any, tmp_path: Path, name: str, turned: bool) -> None:
    rows = [[pair.text, pair.url][:: -1 if turned else 1] for pair in kit.pairs]
    data = "".join("\t".join(row) + "\n" for row in rows).encode()
    table = kit.read_all(kit.section(paths=[str(kit.put(tmp_path / name, data))]))
    assert table["url"].to_pylist() == [pair.url for pair in kit.pairs]
    assert table["text"].to_pylist() == [pair.text for pair in kit.pairs]


def test_a_text_that_is_a_file_name_stands_beside_its_address_in_a_file_without_header(kit: Any, tmp_path: Path) -> None:
    path = kit.put(tmp_path / "cc.tsv", b"IMG_1234.JPG\thttp://a/1.jpg\na dog\thttp://a/2.jpg\n")
    table = kit.read_all(kit.section(paths=[str(path)]))
    assert table["url"].to_pylist() == ["http://a/1.jpg", "http://a/2.jpg"]
    assert table["text"].to_pylist() == ["IMG_1234.JPG", "a dog"]


def test_a_file_without_header_and_three_columns_is_mapped_by_number(kit: Any, tmp_path: Path) -> None:
    path = str(kit.put(tmp_path / "x.tsv", b"7\thttp://a/1\tone\n8\thttp://a/2\ttwo\n"))
    with pytest.raises(InputError, match=r"expected a column for `text`, .*found `0`, `1`, `2`"):
        scan(kit.section(paths=[path]))
    table = kit.read_all(kit.section(paths=[path], columns={"text": "2"}, keep_columns=["0"], keep_types={"0": "int"}))
    assert table["text"].to_pylist() == ["one", "two"]
    assert table["upstream"].to_pylist() == [{"0": 7}, {"0": 8}]


@pytest.mark.parametrize("kind", ["int", "float"])
def test_a_number_that_no_column_holds_is_none_and_its_chunk_is_read(kit: Any, tmp_path: Path, kind: str) -> None:
    huge = "9" * 400
    rows = kit.put(tmp_path / "x.csv", f"url,text,n\nhttp://a/1,one,{huge}\nhttp://a/2,two,7\n".encode())
    lines = [f'{{"url": "http://a/{n}", "text": "t", "n": {value}}}' for n, value in enumerate((huge, "7"))]
    objects = kit.put(tmp_path / "x.jsonl", "\n".join(lines).encode())
    for path in (rows, objects):
        table = kit.read_all(kit.section(paths=[str(path)], keep_columns=["n"], keep_types={"n": kind}))
        assert table["upstream"].to_pylist() == [{"n": None}, {"n": 7}]


def test_datacomp_needs_no_mapping(kit: Any, tmp_path: Path) -> None:
    found = pa.table(
        {"uid": ["0" * 31 + "1", "A1"], "url": ["http://a", "http://b"], "text": ["t", "u"], "original_width": [7, 8]}
    )
    table = kit.read_all(kit.section(paths=[str(kit.parquet(tmp_path / "x.parquet", found))], keep_columns=["original_width"]))
    assert table["uid"][0].as_py() == "0" * 31 + "1"
    assert len(table["uid"][1].as_py()) == 32
    assert table["upstream"].to_pylist() == [{"original_width": 7}, {"original_width": 8}]


def test_carried_columns_of_text_files_have_one_type_whatever_a_chunk_holds(kit: Any, tmp_path: Path) -> None:
    rows = [["url", "text", "similarity", "width", "LICENSE"]] + [
        [f"http://a/{i}", "t", value, "12", "?"] for i, value in enumerate(["1", "", "0.5", "n/a"])
    ]
    config = kit.section(
        paths=[str(kit.put(tmp_path / "x.csv", kit.csv_bytes(rows)))],
        keep_columns=["similarity", "width", "LICENSE"],
        rows_per_chunk=1,
    )
    table = kit.read_all(config)
    assert table["upstream"].type == pa.struct([("similarity", pa.float64()), ("width", pa.int64()), ("LICENSE", pa.string())])
    assert [row["similarity"] for row in table["upstream"].to_pylist()] == [1.0, None, 0.5, None]


# ── lines that are none ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_broken_line_is_a_row_that_says_so(kit: Any, tmp_path: Path) -> None:
    data = b'url,text,punsafe\nhttp://a/1,one,0.5\nhttp://a/2,two, too many,0.5\n"http://a/3,three,0.5\nhttp://a/4,four,0.5\n'
    table = kit.read_all(kit.section(paths=[str(kit.put(tmp_path / "x.csv", data))], keep_columns=["punsafe"], rows_per_chunk=2))
    assert table["status"].to_pylist() == ["ok", "download_failed", "download_failed", "ok"]
    assert table["error"].to_pylist() == [None, "bad_line", "bad_line", None]
    assert table["text"].to_pylist() == ["one", None, None, "four"]
    assert table["upstream"].to_pylist() == [{"punsafe": 0.5}, {"punsafe": None}, {"punsafe": None}, {"punsafe": 0.5}]
    assert len(set(table["uid"].to_pylist())) == 4


def test_a_json_text_that_is_no_text_is_a_broken_line(kit: Any, tmp_path: Path) -> None:
    data = b'{"url": "http://a", "text": 7}\n{"url": "http://a", "text": ["x"]}\n{"url": "http://a", "text": "\\ud800"}\n'
    data += b'{"text": "t"}\n'
    table = kit.read_all(kit.section(paths=[str(kit.put(tmp_path / "x.jsonl", data))]))
    assert table["text"].to_pylist() == ["7", None, "?", "t"]
    assert table["error"].to_pylist() == [None, "bad_line", None, "bad_url"]


# ── nothing there ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"paths": ["no/*.csv"]}, r"expected at least one file at `no/\*\.csv`, found none"),
        ({"paths": ["x{1..2}.csv"]}, "expected at least one file at `x2.csv`, found none"),
        ({"paths": ["deep"]}, "expected at least one file at `deep`, found a folder"),
        ({"kind": "folder", "paths": ["x1.csv"]}, "expected at least one folder at `x1.csv`, found a file"),
        ({"kind": "webdataset", "paths": ["x1.csv"]}, r"expected a tar \(.*found `x1.csv`"),
        ({"kind": "parquet_images", "paths": ["x1.csv"]}, "expected Parquet, found `x1.csv`"),
        ({"kind": "img2dataset", "paths": ["deep"]}, r"expected an output folder of img2dataset .* at `deep`, found readme.md"),
        ({"kind": "img2dataset", "paths": ["dummy"]}, r"00000.parquet: expected a column for `image`.*found `url`, `caption`"),
        ({"paths": ["deep/readme.md"]}, r"expected Parquet, CSV, TSV or JSONL .*found `deep/readme.md`"),
        (
            {"paths": ["x1.csv"], "columns": {"text": "txet"}},
            "expected a column `txet`, found `url`, `text`.*Did you mean `text`",
        ),
        ({"paths": ["x1.csv"], "keep_columns": ["punsafe"]}, "expected a column `punsafe`.*read.keep_columns"),
        ({"paths": ["list.json"]}, "expected one JSON object per line, found a list"),
        ({"paths": ["wide.csv"]}, "expected UTF-8, found UTF-16"),
        ({"kind": "folder", "paths": ["pictures"]}, "expected a column for `text`.*say `text: null`"),
        ({"kind": "webdataset", "paths": ["numbers.tar"]}, "numbers.tar: expected a column for `image`.*found `npy`, `txt`"),
    ],
)
def test_what_is_missing_is_told(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    csv_file(kit, tmp_path / "x1.csv", kit.pairs)
    kit.put(tmp_path / "deep" / "readme.md", b"# hello")
    kit.put(tmp_path / "list.json", b'[{"url": "http://a"}]')
    kit.put(tmp_path / "wide.csv", "url,text\n".encode("utf-16"))
    kit.put(tmp_path / "pictures" / "a.jpg", kit.pairs[0].image)
    kit.put(tmp_path / "numbers.tar", kit.tar_bytes([("1.npy", b"x"), ("1.txt", b"t")]))
    kit.parquet(tmp_path / "dummy" / "00000.parquet", kit.table(kit.pairs, url="url", text="caption"))
    with pytest.raises(InputError, match=message):
        scan(kit.section(**settings))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("url_list", "x.csv"),
        ("url_list", "x.csv.gz"),
        ("url_list", "x.jsonl"),
        ("url_list", "x.tsv.zst"),
        ("webdataset", "x.tar"),
    ],
)
def test_an_empty_file_has_no_rows_and_hurts_no_other(kit: Any, tmp_path: Path, kind: str, name: str) -> None:
    full = tmp_path / f"full.{name.split('.')[1]}"
    if kind == "webdataset":
        kit.put(full, kit.tar_bytes(kit.samples(kit.pairs)))
    elif "jsonl" in name:
        kit.put(full, b'{"url": "http://a", "text": "t"}\n' * 20)
    else:
        kit.put(full, kit.csv_bytes([["url", "text"], *([p.url, p.text] for p in kit.pairs)], "\t" if "tsv" in name else ","))
    empty = kit.put(tmp_path / name, b"")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / name).write_bytes(b"")
    config = kit.section(kind=kind, paths=[str(empty), str(full), str(tmp_path / "zero" / name)])
    assert [file.rows for file in scan(config)] == [0, 20, 0]
    assert kit.read_all(config).num_rows == 20


def test_an_empty_folder_has_no_rows_and_says_so(kit: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (file,) = scan(kit.section(kind="folder", paths=[str(tmp_path / "empty")]))
    assert (file.rows, file.problem) == (0, "holds no picture (.jpg, .jpeg, .png, .webp, .gif, .bmp)")


# ── damaged files ──────────────────────────────────────────────────────────────────────────────────────────────────────


def damaged(kit: Any, tmp_path: Path) -> list[str]:
    good = kit.parquet(tmp_path / "good.parquet", kit.table(kit.pairs, url="url", text="text"))
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(good.read_bytes()[:-30])
    kit.put(tmp_path / "text.gz.csv", b"").rename(tmp_path / "plain.csv.gz")
    (tmp_path / "plain.csv.gz").write_bytes(b"url,text\n")
    return [str(cut), str(good), str(tmp_path / "plain.csv.gz")]


def test_damaged_files_are_refused_all_at_once_and_by_name(kit: Any, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"found 2 of 3 unreadable: `.*cut.parquet` \(.*\); `.*plain.csv.gz` \(.*on_bad_file: skip"
    ):
        scan(kit.section(paths=damaged(kit, tmp_path)))


def test_damaged_files_may_be_left_out_and_come_back_when_repaired(kit: Any, tmp_path: Path) -> None:
    config = kit.section(paths=damaged(kit, tmp_path), on_bad_file="skip")
    index = scan(config)
    assert [file.rows for file in index] == [0, 20, 0]
    assert [file.problem is not None and file.problem.startswith("is left out: ") for file in index] == [True, False, True]
    assert scan(config, index) == index
    kit.parquet(tmp_path / "cut.parquet", kit.table(kit.pairs[:4], url="url", text="text"))
    again = scan(config, index)
    assert [(Path(file.path).name, file.rows) for file in again] == [
        ("good.parquet", 20),
        ("plain.csv.gz", 0),
        ("cut.parquet", 4),
    ]


@pytest.mark.parametrize("on_bad_file", ["refuse", "skip"])
def test_damage_behind_a_whole_footer(kit: Any, tmp_path: Path, on_bad_file: str) -> None:
    path = kit.parquet(tmp_path / "x.parquet", kit.table(kit.pairs, url="url", text="text", punsafe="punsafe"))
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    config = kit.section(paths=[str(path)], on_bad_file=on_bad_file, keep_columns=["punsafe"])
    index, chunks = kit.chunks_of(config)
    if on_bad_file == "refuse":
        with pytest.raises(InputError, match=r"x\.parquet: expected a readable Parquet file"):
            kit.read_all(config, index)
        return
    table = kit.read_all(config, index)
    assert table.num_rows == 20
    assert table["error"].to_pylist() == ["bad_file"] * 6 + ["bad_file"] + [None] * 13
    assert len(set(table["uid"].to_pylist())) == 20
    assert len(chunks) == 5


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_compressed_list_that_breaks_off_is_used_up_to_there(kit: Any, tmp_path: Path, ending: str) -> None:
    import random

    letters = random.Random(1)
    rows = [[f"http://a/{i}", "".join(letters.choices("abcdefgh", k=400))] for i in range(2000)]
    path = kit.put(tmp_path / f"x.csv.{ending}", kit.csv_bytes([["url", "text"], *rows]))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    config = kit.section(paths=[str(path)], rows_per_chunk=100)
    (file,) = scan(config)
    assert 400 < file.rows < 1500
    assert file.problem is not None
    assert file.problem.startswith(f"breaks off after {file.rows:,} rows (")
    table = kit.read_all(config)
    assert table["text"].to_pylist() == [text for _, text in rows[: file.rows]]


# ── appended and changed ───────────────────────────────────────────────────────────────────────────────────────────────


def _grown(kit: Any, tmp_path: Path, form: str) -> tuple[dict[str, Any], Path]:
    """Settings of a source with ten pairs, and a file of it; after a second call with twenty."""
    folder = tmp_path / "input"
    is_second = folder.exists()
    pairs, name = (kit.pairs[10:], "a_second") if is_second else (kit.pairs[:10], "b_first")
    first = 10 if is_second else 0
    match form:
        case "csv" | "tsv.gz" | "jsonl":
            import json

            if form == "jsonl":
                data = "".join(json.dumps({"url": p.url, "text": p.text}) + "\n" for p in pairs).encode()
            else:
                data = kit.csv_bytes([["url", "text"], *([p.url, p.text] for p in pairs)], "\t" if "tsv" in form else ",")
            return {"paths": [f"{folder}/*"]}, kit.put(folder / f"{name}.{form}", data)
        case "parquet_images":
            found = kit.table(pairs, image="image", text="text", url="url")
            return {"kind": form, "paths": [f"{folder}/*"]}, kit.parquet(folder / f"{name}.parquet", found)
        case "webdataset":
            path = kit.put(folder / f"{name}.tar", kit.tar_bytes(kit.samples(pairs, first)))
            return {"kind": form, "paths": [f"{folder}/*.tar"]}, path
        case "img2dataset files":
            kit.unpack(folder / f"{first:05d}", kit.samples(pairs, first))
            return {"kind": "img2dataset", "paths": [str(folder)]}, folder / "00000" / "000000003.txt"
        case "img2dataset webdataset":
            path = kit.put(folder / f"{99999 - first:05d}.tar", kit.tar_bytes(kit.samples(pairs, first)))
            return {"kind": "img2dataset", "paths": [str(folder)]}, path
        case "folder":
            kit.unpack(folder, [(f"{name}{member}", data) for member, data in kit.samples(pairs, first)])
            return {"kind": "folder", "paths": [str(folder)]}, folder / "b_first000000003.txt"
        case _:
            kit.unpack(folder / name, kit.samples(pairs, first)[::3])
            rows = [[f"{first + number:09d}.jpg", pair.text, pair.url] for number, pair in enumerate(pairs)]
            path = kit.put(folder / name / "metadata.csv", kit.csv_bytes([["file_name", "text", "url"], *rows]))
            return {"kind": "folder", "paths": [f"{folder}/*"]}, path


FORMS = [
    "csv",
    "tsv.gz",
    "jsonl",
    "parquet_images",
    "webdataset",
    "img2dataset files",
    "img2dataset webdataset",
    "folder",
    "folder with captions",
]


@pytest.mark.parametrize("form", FORMS)
def test_appended_files_add_chunks_and_renumber_nothing(kit: Any, tmp_path: Path, form: str) -> None:
    settings, _ = _grown(kit, tmp_path, form)
    config = kit.section(**settings, rows_per_chunk=4)
    index, chunks = kit.chunks_of(config)
    assert scan(config, index) == index
    before = [read_chunk(chunk, config) for chunk in chunks]
    _grown(kit, tmp_path, form)
    later, grown = kit.chunks_of(config, index)
    assert grown[: len(chunks)] == chunks
    assert len({chunk.chunk_id for chunk in grown}) == len(grown) > len(chunks)
    assert all(read_chunk(chunk, config).equals(table) for chunk, table in zip(chunks, before, strict=True))
    assert kit.read_all(config, later)["text"].to_pylist() == [pair.text for pair in kit.pairs]
    assert scan(config, later) == later


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_or_lost_file_is_refused(kit: Any, tmp_path: Path, form: str) -> None:
    settings, path = _grown(kit, tmp_path, form)
    config = kit.section(**settings)
    index = scan(config)
    data = path.read_bytes()
    path.write_bytes(data + b"more")
    with pytest.raises(RunStateError, match="as the run first saw it"):
        scan(config, index)
    path.write_bytes(data)
    assert scan(config, index) == index
    _grown(kit, tmp_path, form)
    path.unlink()
    with pytest.raises(RunStateError, match="as the run first saw it"):
        scan(config, index)


def test_a_known_file_is_not_scanned_again(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = kit.section(paths=[csv_file(kit, tmp_path / "x.csv", kit.pairs)])
    index = scan(config)
    monkeypatch.setattr("capfilt.sources.text.cut", lambda *_: pytest.fail("scanned again"))
    assert scan(config, index) == index


def test_a_copied_source_keeps_its_chunk_ids(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("csv", "folder", "webdataset"):
        ids = []
        for place in ("one", "two"):
            (tmp_path / form / place).mkdir(parents=True)
            monkeypatch.chdir(tmp_path / form / place)
            settings, _ = _grown(kit, Path("."), form)
            config = kit.section(**settings)
            ids.append([chunk.chunk_id for chunk in make_chunks(config, scan(config))])
        assert ids[0] == ids[1]


# ── far away ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("protocol", ["memory://", "file://"])
@pytest.mark.parametrize("form", FORMS)
def test_sources_on_other_file_systems_are_the_same_rows(kit: Any, tmp_path: Path, form: str, protocol: str) -> None:
    settings, _ = _grown(kit, tmp_path, form)
    here = kit.read_all(kit.section(**settings))
    folder = str(tmp_path / "input")
    if protocol == "memory://":
        memory = fsspec.filesystem("memory")
        memory.put(folder, f"/{tmp_path.name}/{form}/input", recursive=True)
        there = f"memory://{tmp_path.name}/{form}/input"
    else:
        there = f"file://{folder}"
    far = kit.read_all(kit.section(**settings | {"paths": [path.replace(folder, there) for path in settings["paths"]]}))
    assert far.num_rows == 10
    for name in ("uid", "url", "text", "image", "status"):
        assert far[name].equals(here[name])


# ── types of carried columns ───────────────────────────────────────────────────────────────────────────────────────────


def carrying(kit: Any, path: Path, licence: pa.Array) -> str:
    urls = [f"http://{path.stem}/{i}" for i in range(len(licence))]
    return str(kit.parquet(path, pa.table({"url": urls, "text": ["t"] * len(urls), "license": licence})))


def test_types_of_a_carried_column_that_do_not_go_together_are_refused_with_both_files(kit: Any, tmp_path: Path) -> None:
    texts = carrying(kit, tmp_path / "b.parquet", pa.array(["by", None]).dictionary_encode())
    paths = [carrying(kit, tmp_path / "a.parquet", pa.nulls(2)), texts]
    config = kit.section(paths=[str(tmp_path / "*.parquet")], keep_columns=["license"])
    known = scan(config)
    assert [file.path for file in known] == paths
    carrying(kit, tmp_path / "c.parquet", pa.array([1, 2]))
    told = r"one type of `license` in all files, found string in `.*b\.parquet` and int64 in `.*c\.parquet`"
    for before in (None, known):
        with pytest.raises(InputError, match=told):
            scan(config, before)
    (tmp_path / "c.parquet").unlink()
    numbers = str(kit.put(tmp_path / "d.csv", b"url,text,license\nhttp://d,t,1\n"))
    with pytest.raises(InputError, match=r"found string in `.*b\.parquet` and int64 in `.*d\.csv`"):
        scan(kit.section(paths=[texts, numbers], keep_columns=["license"], keep_types={"license": "int"}))


def test_whole_numbers_beside_fractions_are_taken(kit: Any, tmp_path: Path) -> None:
    paths = [carrying(kit, tmp_path / f"{i}.parquet", pa.array(values)) for i, values in enumerate(([1, 2], [0.5, None]))]
    assert len(scan(kit.section(paths=paths, keep_columns=["license"]))) == 2


# ── shards that a training names ───────────────────────────────────────────────────────────────────────────────────────


def test_other_shards_under_the_same_names_are_noticed(kit: Any, tmp_path: Path) -> None:
    own = CapfiltShards(kind="capfilt", paths=[str(tmp_path / "shards" / "*.parquet")])
    assert content_of(own) is None
    for name in ("a", "b"):
        kit.parquet(tmp_path / "shards" / f"{name}.parquet", kit.table(kit.pairs[:4], image="image", text="text"))
    before = content_of(own)
    assert before == content_of(own) == content_of(ParquetImages(kind="parquet_images", paths=own.paths))
    kit.parquet(tmp_path / "shards" / "b.parquet", kit.table(kit.pairs[4:8], image="image", text="text"))
    assert before is not None
    assert before != content_of(own)
    kit.unpack(tmp_path / "out" / "00000", kit.samples(kit.pairs[:3]))
    folders = Img2dataset(kind="img2dataset", paths=[str(tmp_path / "out")])
    before = content_of(folders)
    kit.unpack(tmp_path / "out" / "00000", kit.samples(kit.pairs[3:4], 3))
    assert before is not None
    assert before != content_of(folders)
