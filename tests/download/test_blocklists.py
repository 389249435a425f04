import gzip
import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.download.addresses import parse_url
from capfilt.download.blocklists import Blocklists
from capfilt.download.outcome import Blocked
from capfilt.errors import InputError


def listed(folder: Path, text: str, name: str = "list.txt") -> list[str]:
    (folder / name).write_text(text, encoding="utf-8")
    return [str(folder / name)]


def found(lists: Blocklists, url: str) -> str | None:
    try:
        lists.check_target(parse_url(url))
    except Blocked as block:
        return block.code
    return None


def test_nothing_is_blocked_without_files() -> None:
    lists = Blocklists()
    lists.check_target(parse_url("http://example.org/"))
    lists.check_picture(b"bytes")


@pytest.mark.parametrize(
    ("url", "blocked"),
    [
        ("http://bad.example/", True),
        ("https://BAD.example.:8443/a.jpg", True),
        ("http://deep.down.bad.example/", True),
        ("http://notbad.example/", False),
        ("http://bad.example.org/", False),
        ("http://example/", False),
        ("http://bücher.test/", True),
        ("http://xn--bcher-kva.test/", True),
        ("http://a.star.test/", True),
        ("http://203.0.113.9/", True),
        ("http://3405803785/", True),  # the same address
        ("http://203.0.113.90/", False),
        ("http://[2001:db8::1]/", True),
        ("http://[2001:db8:0::1]/", True),
    ],
)
def test_a_domain_covers_its_subdomains_and_nothing_else(url: str, blocked: bool, tmp_path: Path) -> None:
    text = "# our list\n\nbad.example   # why\n  Bücher.TEST\n*.star.test\n203.0.113.9\n2001:db8::1\n"
    assert found(Blocklists(domains=listed(tmp_path, text)), url) == ("blocklist:domain" if blocked else None)


@pytest.mark.parametrize(
    ("url", "blocked"),
    [
        ("http://a.example/pic%20ture.jpg?x=1", True),
        ("https://A.example:443/pic ture.jpg?x=1#part", True),
        ("http://a.example/%70ic%20ture.jpg?x=%31", True),
        ("http://a.example/other/../pic%20ture.jpg?x=1", True),
        ("http://a.example//./pic%20ture.jpg?x=1", True),
        ("http://a.example/pic%20ture.jpg", False),
        ("http://a.example/pic%20ture.jpg?x=2", False),
        ("http://b.example/plain/", True),
        ("http://b.example/plain", False),
        ("http://b.example:81/plain/", False),
    ],
)
def test_a_url_is_blocked_in_all_its_spellings(url: str, blocked: bool, tmp_path: Path) -> None:
    text = "https://a.example/pic%20ture.jpg?x=1\nb.example/plain/ # without a scheme\n"
    assert found(Blocklists(urls=listed(tmp_path, text)), url) == ("blocklist:url" if blocked else None)


@pytest.fixture(scope="module")
def two_domains(tmp_path_factory: pytest.TempPathFactory) -> Blocklists:
    return Blocklists(domains=listed(tmp_path_factory.mktemp("lists"), "a.b\nc\n"))


@given(labels=st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=5))
def test_exactly_the_listed_domains_and_what_is_below_them_are_blocked(two_domains: Blocklists, labels: list[str]) -> None:
    host = ".".join(labels)
    expected = f".{host}".endswith((".a.b", ".c"))
    assert (found(two_domains, f"http://{host}/") is not None) is expected


def test_a_picture_is_known_by_its_bytes(tmp_path: Path) -> None:
    bad = hashlib.sha256(b"bad").hexdigest()
    lists = Blocklists(sha256=listed(tmp_path, f"{bad.upper()}\n{hashlib.sha256(b'worse').hexdigest()}  worse.jpg\n"))
    for data in (b"bad", b"worse"):
        with pytest.raises(Blocked, match="blocklist:sha256"):
            lists.check_picture(data)
    lists.check_picture(b"good")


def test_a_row_that_brings_its_picture_is_asked_for_both(tmp_path: Path) -> None:
    bad = hashlib.sha256(b"bad").hexdigest()
    lists = Blocklists(
        sha256=listed(tmp_path, bad, "pictures"),
        domains=listed(tmp_path, "bad.example", "hosts"),
        urls=listed(tmp_path, "good.example/bad.jpg", "urls"),
    )
    rows = [("http://x.bad.example/", b"good"), ("http://good.example/bad.jpg", b"good"), (None, b"bad"), ("no url", b"good")]
    codes = []
    for url, data in rows:
        try:
            lists.check_row(url, data)
            codes.append(None)
        except Blocked as block:
            codes.append(block.code)
    assert codes == ["blocklist:domain", "blocklist:url", "blocklist:sha256", None]


def test_several_files_count_together_and_may_be_gzipped(tmp_path: Path) -> None:
    packed = tmp_path / "hosts.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbfone.example\r\n"))
    lists = Blocklists(domains=[str(packed), *listed(tmp_path, "two.example")])
    assert found(lists, "http://one.example/") == found(lists, "http://two.example/") == "blocklist:domain"


@pytest.mark.parametrize(
    ("kind", "line", "expected"),
    [
        ("sha256", "d41d8cd98f00b204e9800998ecf8427e", "64 hex digits"),
        ("domains", "0.0.0.0 bad.example", "host name"),
        ("domains", "bad.example/path", "host name"),
        ("urls", "ftp://bad.example/", "a URL"),
    ],
)
def test_a_line_that_is_no_entry_is_named(kind: str, line: str, expected: str, tmp_path: Path) -> None:
    paths = listed(tmp_path, f"# first\n{line}\n")
    with pytest.raises(InputError, match=rf"list.txt:2: expected .*{expected}.*found"):
        Blocklists(**{kind: paths})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary"):
        with pytest.raises(InputError, match=rf"{name}: expected a blocklist"):
            Blocklists(urls=[str(tmp_path / name)])


def test_a_long_list_takes_eight_bytes_an_entry(tmp_path: Path) -> None:
    lists = Blocklists(domains=listed(tmp_path, "".join(f"host{number}.example\n" for number in range(20_000))))
    assert lists._domains._sorted.nbytes == 160_000
    assert found(lists, "http://www.host19999.example/") == "blocklist:domain"
    assert found(lists, "http://host20000.example/") is None


def test_the_stage_blocks_rows_that_bring_their_picture(tmp_path: Path) -> None:
    from PIL import Image

    from capfilt.config.download import BlocklistsConfig, DownloadConfig
    from capfilt.stages.download import DownloadStage

    pictures = []
    for name, shade in (("good", 100), ("bad", 200)):
        Image.new("RGB", (64, 64), (shade, shade, shade)).save(tmp_path / name, "PNG")
        pictures.append((tmp_path / name).read_bytes())
    good, bad = pictures
    lists = BlocklistsConfig(
        domains=listed(tmp_path, "bad.example", "hosts"), sha256=listed(tmp_path, hashlib.sha256(bad).hexdigest(), "digests")
    )
    stage = DownloadStage(DownloadConfig(blocklists=lists), threads=2, connect_to={})
    table = pa.table(
        {
            "row_id": ["c-0", "c-1", "c-2", "c-3"],
            "url": [None, "http://a.bad.example/1.jpg", None, "http://b.bad.example/2.jpg"],
            "status": ["ok"] * 4,
            "error": pa.nulls(4, pa.string()),
            "image": pa.array([good, good, bad, None], pa.large_binary()),
        }
    )
    done = stage(table)
    stage.close()
    assert done["status"].to_pylist() == ["ok", *["download_blocked"] * 3]
    assert done["error"].to_pylist() == [None, "blocklist:domain", "blocklist:sha256", "blocklist:domain"]
    assert [image is not None for image in done["image"].to_pylist()] == [True, False, False, False]
