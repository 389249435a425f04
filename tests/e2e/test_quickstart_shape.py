"""The shape of a finished run, on pipelines/debug.yaml: the funnel adds up, a second start adds nothing, every command works."""

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest

from capfilt.schema import REASONS, Status

Rows = list[dict[str, Any]]


def rows(folder: Path, pattern: str = "chunk-*.parquet") -> Rows:
    found = [row for path in sorted(folder.glob(pattern)) for row in pq.read_table(path).to_pylist()]
    return sorted(found, key=lambda row: str(row.get("row_id")))


@pytest.fixture(scope="module")
def pool(finished: Path) -> Rows:
    return rows(finished / "pool")


@pytest.fixture(scope="module")
def candidates(finished: Path) -> Rows:
    return rows(finished / "round-1" / "candidates")


@pytest.fixture(scope="module")
def selection(finished: Path) -> Rows:
    return rows(finished / "round-1" / "selection", "selection.parquet")


@pytest.fixture
def well(call: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """What a command prints that must exit with 0."""

    def called(*arguments: str) -> str:
        code, told, error = call(*arguments)
        assert code == 0, error
        return told

    return called


# ── the funnel ──────────────────────────────────────────────────────────────────────────────────────────────


def test_every_url_has_exactly_one_status(finished: Path, pool: Rows) -> None:
    asked = pq.read_table(finished / "miniweb" / "web.parquet")["url"].to_pylist()
    assert sorted(row["url"] for row in pool) == sorted(asked)
    assert {row["status"] for row in pool} <= set(get_args(Status))
    for row in pool:
        assert (row["error"] is None) == (row["status"] == "ok")
        assert row["image"] is not None or row["status"] != "ok"
    footers = [json.loads(pq.read_schema(path).metadata[b"capfilt"]) for path in (finished / "pool").glob("chunk-*.parquet")]
    assert sum((Counter(footer["counts"]) for footer in footers), Counter()) == Counter(row["status"] for row in pool)


def test_the_small_webs_bad_addresses_end_where_they_should(finished: Path, pool: Rows) -> None:
    kinds = {row["url"]: row["url_kind"] for row in rows(finished / "miniweb", "truth.parquet") if row["url"]}
    ends: dict[str, set[str]] = {}
    for row in pool:
        ends.setdefault(kinds[row["url"]], set()).add(row["status"])
    assert ends["ok"] == {"ok"}
    assert ends["not_found"] == ends["dripping"] == ends["redirect_refused"] == {"download_failed"}
    assert ends["robots"] == ends["opted_out_header"] == {"opted_out"}
    assert ends["truncated"] == ends["bomb"] == ends["html"] == {"image_invalid"}
    assert ends["thumbnail"] == ends["banner"] == {"rule_rejected"}


def test_a_round_knows_every_row_of_the_pool_and_adds_texts_to_the_healthy_ones(pool: Rows, candidates: Rows) -> None:
    assert [row["row_id"] for row in candidates] == [row["row_id"] for row in pool]
    for before, after in zip(pool, candidates, strict=True):
        assert "image" not in after
        assert after["status"] == before["status"]
        added = [text for text in after["captions"] or [] if text["origin"] == "synthetic"]
        assert len(added) == (2 if after["status"] == "ok" else 0)
        assert (after["embedding"] is not None) == (after["status"] == "ok")
        for text in after["captions"] or []:
            can_score = after["status"] == "ok" and text["rule"] is None and text["error"] is None
            assert len(text["scores"]) == int(can_score)


def test_every_text_has_exactly_one_reason(finished: Path, candidates: Rows, selection: Rows) -> None:
    assert [row["row_id"] for row in selection] == [row["row_id"] for row in candidates]
    reasons: dict[str, Counter[str]] = {}
    for row, decided in zip(candidates, selection, strict=True):
        texts = row["captions"] or []
        assert len(decided["kept"]) == len(decided["reason"]) == len(texts)
        assert [reason == "kept" for reason in decided["reason"]] == decided["kept"]
        for text, reason in zip(texts, decided["reason"], strict=True):
            reasons.setdefault(text["origin"], Counter())[reason] += 1
            assert reason in REASONS
    told = json.loads((finished / "round-1" / "selection" / "summary.json").read_text())
    assert {origin: dict(counts) for origin, counts in reasons.items()} == {
        origin: counted["reasons"] for origin, counted in told["texts"].items()
    }
    assert all(sum(counted["reasons"].values()) == counted["count"] for counted in told["texts"].values())
    assert {"kept", "duplicate", "contaminated", "rule"} <= {reason for counts in reasons.values() for reason in counts}


def test_the_data_set_is_what_was_kept(finished: Path, candidates: Rows, selection: Rows) -> None:
    texts = {row["row_id"]: [text["text"] for text in row["captions"] or []] for row in candidates}
    kept = [
        (decided["uid"], [text for text, is_kept in zip(texts[decided["row_id"]], decided["kept"], strict=True) if is_kept])
        for decided in selection
        if any(decided["kept"])
    ]
    written = rows(finished / "round-1" / "dataset" / "parquet", "0*.parquet")
    assert sorted((row["uid"], sorted(row["all_captions"])) for row in written) == sorted((uid, sorted(own)) for uid, own in kept)
    assert len(written) > 0
    assert all(row["caption"] in row["all_captions"] and row["image"] for row in written)


# ── a finished run ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_further_start_makes_nothing_anew(own: Path, well: Callable[..., str]) -> None:
    def made() -> dict[str, int]:
        paths = [path for path in own.rglob("*") if path.is_file() and path.name != "report.html"]
        return {str(path): path.stat().st_mtime_ns for path in paths if path.parent.name != "events"}

    well("run", "debug")
    before = made()
    told = well("run", "debug")
    assert made() == before
    assert "rows have a usable picture" in told
    assert "round 1: primary" in told


def test_the_plan_of_a_finished_run_is_all_done(well: Callable[..., str]) -> None:
    lines = [line.split() for line in well("plan", "debug").splitlines() if " of " in line]
    assert len(lines) > 10
    assert [line for line in lines if line[-3] != line[-1]] == []


def test_select_decides_again_without_touching_the_run(own: Path, candidates: Rows, well: Callable[..., str]) -> None:
    itm = sorted(score["itm"] for row in candidates for text in row["captions"] or [] for score in text["scores"])
    middle = itm[len(itm) // 2]
    before = (own / "round-1" / "selection" / "selection.parquet").read_bytes()
    told = well("select", "runs/debug", "--name", "strict", "--set", f"select.min_itm={middle!r}")
    view = own.parent.parent / told.splitlines()[-1]
    assert "view strict:" in told
    assert "below_threshold" in told
    decided = {row["row_id"]: row for row in rows(view, "selection.parquet")}
    kept = 0
    for row in candidates:
        for text, is_kept, reason in zip(
            row["captions"] or [], *(decided[row["row_id"]][n] for n in ("kept", "reason")), strict=True
        ):
            kept += is_kept
            if text["scores"]:
                assert (reason == "below_threshold") == (text["scores"][0]["itm"] < middle)
    assert 0 < kept < sum(is_kept for row in rows(own / "round-1" / "selection", "selection.parquet") for is_kept in row["kept"])
    assert (own / "round-1" / "selection" / "selection.parquet").read_bytes() == before


@pytest.mark.parametrize("status", ["ok", "download_failed"])
def test_explain_tells_a_pairs_journey(pool: Rows, candidates: Rows, status: str, well: Callable[..., str]) -> None:
    row = next(row for row in pool if row["status"] == status)
    told = well("explain", "runs/debug", row["uid"])
    assert row["url"] in told
    assert f"round 1: {status}" in told
    (as_json,) = json.loads(well("explain", "runs/debug", row["row_id"], "--json"))
    (story,) = as_json["rounds"]
    texts = next(known["captions"] for known in candidates if known["row_id"] == row["row_id"]) or []
    assert [text["text"] for text in story["captions"]] == [text["text"] for text in texts]


def test_the_report_is_written_again(own: Path, well: Callable[..., str]) -> None:
    page = own / "report.html"
    pictures = page.read_text(encoding="utf-8").count('src="data:image')
    page.unlink()
    assert well("report", "runs/debug").strip() == "runs/debug/report.html"
    html = page.read_text(encoding="utf-8")
    assert html.startswith("<!doctype html>")
    assert html.count('src="data:image') == pictures
    assert "http 404" in html
    assert 'src="http' not in html, "it stands alone"


def test_a_trained_captioner_captions_from_the_command_line(
    own: Path, pool: Rows, well: Callable[..., str], tmp_path: Path
) -> None:
    from PIL import Image

    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    healthy = [row["image"] for row in pool if row["image"] is not None]
    for path, data in zip(pictures, healthy, strict=False):
        Image.open(io.BytesIO(data)).save(path)
    lines = well("caption", "runs/debug/round-1/models/captioner", *map(str, pictures)).splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(path) for path in pictures]
    assert well("caption", "runs/debug/round-1/models/captioner", str(pictures[0])).strip() == lines[0].partition("\t")[2].strip()
