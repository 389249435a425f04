import hashlib
import io
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.config.miniweb import MiniwebConfig
from capfilt.miniweb import build as build_module
from capfilt.miniweb.addresses import BAD, ODD
from capfilt.miniweb.build import FILES, PAIRS, TRUTH, WEB, build
from capfilt.miniweb.language import is_true
from capfilt.miniweb.world import Scene


def rows(folder: Path, name: str) -> list[dict[str, object]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def hashes(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(config: MiniwebConfig, web: Path, tmp_path: Path) -> None:
    build(config, tmp_path / "same", seed=3)
    build(config, tmp_path / "other", seed=4)
    assert hashes(tmp_path / "same") == hashes(web)
    assert not set(hashes(tmp_path / "other").values()) & set(hashes(web).values())


def test_what_is_there_is_not_built_again_unless_config_or_seed_differ(
    config: MiniwebConfig, web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((web / name).read_bytes())

    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(build_module, "_web", refuse)
    build(config, tmp_path, seed=3)
    with pytest.raises(AssertionError, match="built again"):
        build(config, tmp_path, seed=4)
    with pytest.raises(AssertionError, match="built again"):
        build(config.model_copy(update={"unseen": True}), tmp_path, seed=3)
    (tmp_path / "truth.parquet").unlink()
    with pytest.raises(AssertionError, match="built again"):
        build(config, tmp_path, seed=3)


def test_files_appear_whole_and_nothing_else_stays(web: Path) -> None:
    assert {path.name for path in web.iterdir()} == set(FILES)


def test_columns_are_as_stated(web: Path) -> None:
    for name, schema in (("web", WEB), ("human", PAIRS), ("heldout", PAIRS), ("truth", TRUTH)):
        assert pq.read_schema(web / f"{name}.parquet").remove_metadata() == schema


def test_every_address_is_in_the_web_once_with_its_truth(config: MiniwebConfig, web: Path) -> None:
    pairs = [(row["url"], row["text"]) for row in rows(web, "web")]
    truth = {row["url"]: row for row in rows(web, "truth") if row["url"] is not None}
    assert len(pairs) == len(dict(pairs)) == config.pictures
    assert dict(pairs) == {url: row["text"] for url, row in truth.items()}
    assert {row["url_kind"] for row in truth.values()} == {"ok", *BAD, *ODD}
    for row in truth.values():
        assert row["text_is_true"] == is_true(str(row["text"]), Scene.from_json(str(row["scene"])))


def test_only_the_closed_host_holds_robots_pages_and_urls_have_no_port(config: MiniwebConfig, web: Path) -> None:
    for row in rows(web, "truth"):
        if row["url"] is not None:
            host = str(row["url"]).split("/")[2]
            assert host in config.hosts
            assert (host == config.hosts[-1]) == (row["url_kind"] == "robots")


@pytest.mark.parametrize("name", ["human", "heldout"])
def test_pictures_with_human_texts_have_several_true_wordings(config: MiniwebConfig, web: Path, name: str) -> None:
    scenes = {row["key"]: Scene.from_json(str(row["scene"])) for row in rows(web, "truth") if row["key"] is not None}
    pairs = rows(web, name)
    assert len({row["key"] for row in pairs}) == len(pairs) == config.human_pairs
    for row in pairs:
        captions = row["captions"]
        assert isinstance(captions, list)
        assert len(set(captions)) == len(captions) >= 2
        assert all(is_true(text, scenes[row["key"]]) for text in captions)
        assert Image.open(io.BytesIO(bytes(row["image"]))).size == (row["width"], row["height"])  # type: ignore[call-overload]


def test_duplicates_show_the_scene_that_they_repeat(web: Path) -> None:
    truth = {row["url"] or row["key"]: row for row in rows(web, "truth")}
    bodies = {row["url"]: row["body"] for row in rows(web, "pictures")} | {
        row["key"]: row["image"] for row in rows(web, "heldout")
    }
    copies = [(name, row["duplicate_of"]) for name, row in truth.items() if row["duplicate_of"] is not None]
    assert len(copies) >= 7
    assert all(truth[name]["scene"] == truth[source]["scene"] for name, source in copies)
    assert Counter(bodies[name] == bodies[source] for name, source in copies).keys() == {True, False}
    assert any(str(source).startswith("heldout-") for _, source in copies)
