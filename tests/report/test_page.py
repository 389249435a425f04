import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.errors import InputError
from capfilt.report import write_report
from capfilt.schema import candidates_schema, pool_schema

Rewrite = Callable[[Path, Callable[[dict[str, Any]], None]], None]
VOID = {"meta", "img", "br", "rect", "line", "circle", "path", "polygon", "polyline", "stop"}


class Outline(HTMLParser):
    """Checks that elements nest, and remembers what the page would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.alts: list[str | None] = []
        self.handlers: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.append(tag)
        self.sources += [
            value or "" for name, value in attrs if name in ("src", "srcset", "data", "action", "href", "xlink:href")
        ]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            self.alts.append(told.get("alt"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(folder: Path, cards: int = 60) -> str:
    return write_report(folder, cards=cards).read_text(encoding="utf-8")


def test_a_report_written_again_shows_as_many_pictures_as_the_run_asked_for(run_folder: Path) -> None:
    config = run_folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8") + "\nreport: {cards: 3, open: false}\n", encoding="utf-8")
    assert write_report(run_folder).read_text(encoding="utf-8") == page_of(run_folder, 3) != page_of(run_folder, 30)


def test_the_report_is_one_file_that_loads_and_runs_nothing(run_folder: Path) -> None:
    page = page_of(run_folder)
    outline = Outline(page)
    assert outline.open == []
    assert outline.sources
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in outline.sources)
    assert not outline.handlers
    assert not {"script", "link", "iframe", "object", "form"} & set(outline.tags)
    assert "url(http" not in page
    assert "@import" not in page
    assert (run_folder / "report.html").stat().st_size < 3_000_000
    assert [path.name for path in run_folder.glob("*report*")] == ["report.html"]


def test_a_hostile_web_text_is_shown_as_text(run_folder: Path, rewrite_json: Rewrite) -> None:
    rewrite_json(run_folder / "round-1" / "metrics.json", lambda value: _say(value, '"><img src=x onerror=alert(1)>'))
    page = page_of(run_folder, cards=240)
    assert "&lt;script&gt;alert(&quot;from the web&quot;)&lt;/script&gt;" in page
    assert "<script" not in page
    assert "<img src=x" not in page


def _say(metrics: dict[str, Any], text: str) -> None:
    for example in metrics["captioning"]["examples"]:
        example["caption"] = text


def test_every_picture_has_an_alternative_text_and_every_heading_a_scope(run_folder: Path) -> None:
    page = page_of(run_folder)
    alts = Outline(page).alts
    assert len(alts) > 20
    assert all(alts)
    heads = re.findall(r"<th[ >][^>]*", page)
    assert heads
    assert all('scope="' in head for head in heads)


def test_the_same_run_gives_the_same_bytes(run_folder: Path) -> None:
    assert page_of(run_folder) == page_of(run_folder)


def test_cards_none_shows_no_card_and_says_so(run_folder: Path) -> None:
    page = page_of(run_folder, cards=0)
    assert "No pictures were asked for." in page
    assert '<div class="texts">' not in page


def test_a_better_model_is_called_better(run_folder: Path) -> None:
    page = page_of(run_folder)
    assert 'class="verdict better"' in page
    assert "+20.0 points" in page


def test_a_worse_model_is_called_a_negative_result(run_folder: Path, rewrite_json: Rewrite) -> None:
    worse = {"name": "mean_recall_at_1", "value": 0.1, "interval": [0.08, 0.12]}
    rewrite_json(run_folder / "round-1" / "metrics.json", lambda value: value.update(primary=worse))
    page = page_of(run_folder)
    assert 'class="verdict worse"' in page
    assert "A negative result" in page


def test_overlapping_intervals_are_not_called_better(run_folder: Path, rewrite_json: Rewrite) -> None:
    close = {"name": "mean_recall_at_1", "value": 0.22, "interval": [0.19, 0.25]}
    rewrite_json(run_folder / "round-1" / "metrics.json", lambda value: value.update(primary=close))
    assert "not shown to be better" in page_of(run_folder)


# ── runs that did not get to the end ────────────────────────────────────────────────────────────────────────


def test_a_run_that_ended_after_write_has_no_before_and_after(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "round-0")
    (run_folder / "round-1" / "metrics.json").unlink()
    shutil.rmtree(run_folder / "round-1" / "training")
    page = page_of(run_folder)
    assert "This run trained no model" in page
    assert "No model was evaluated in this run." in page
    assert '<ol class="funnel">' in page


def test_a_run_without_truth_says_that_nobody_can_check_the_filter(run_folder: Path, rewrite_json: Rewrite) -> None:
    (run_folder / "miniweb" / "truth.parquet").unlink()
    rewrite_json(run_folder / "round-1" / "metrics.json", lambda value: value.update(filter_quality=None))
    page = page_of(run_folder)
    assert "Nobody knows the truth" in page
    assert 'class="badge alarm"' not in page


def test_a_run_that_ended_after_filter_decides_nothing(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "round-1" / "selection")
    page = page_of(run_folder)
    assert "nothing is kept or rejected yet" in page
    assert "Not decided" in page
    assert "<del>" not in page


def test_a_run_that_ended_after_the_pool_still_shows_its_pictures(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "round-1")
    page = page_of(run_folder)
    assert "No text has its ITM score" in page
    assert "data:image/jpeg" in page


def test_an_empty_data_set_is_said_to_be_empty(run_folder: Path) -> None:
    path = run_folder / "round-1" / "selection" / "selection.parquet"
    table = pq.read_table(path)
    none = [
        {**row, "kept": [False] * len(row["kept"]), "reason": ["below_threshold"] * len(row["reason"])}
        for row in table.to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(none, table.schema), path)
    assert "The data set is empty" in page_of(run_folder)
    summary = path.with_name("summary.json")
    told = json.loads(summary.read_text()) if summary.is_file() else {}
    summary.write_text(json.dumps({**told, "nothing_kept": "all 9 texts are below ITM 0.5 (highest 0.3)"}))
    assert "no text of any picture was kept: all 9 texts are below ITM 0.5 (highest 0.3)." in page_of(run_folder)


def test_a_run_whose_downloads_all_failed_says_why(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "round-1" / "selection")
    for path in [*run_folder.glob("pool/*.parquet"), *run_folder.glob("round-1/candidates/*.parquet")]:
        table = pq.read_table(path)
        failed = {"status": "download_failed", "error": "dns_failed", "image": None, "captions": [], "embedding": None}
        rows = [{**row, **{name: value for name, value in failed.items() if name in row}} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    page = page_of(run_folder)
    assert "None of the 240 URLs gave a usable picture" in page
    assert "dns failed: 240" in page


@pytest.mark.parametrize("is_candidates", [False, True])
def test_tables_without_rows_make_a_report(tmp_path: Path, is_candidates: bool) -> None:
    folder = tmp_path / ("round-1/candidates" if is_candidates else "pool")
    folder.mkdir(parents=True)
    schema = candidates_schema(4) if is_candidates else pool_schema()
    pq.write_table(schema.empty_table(), folder / "chunk-0.parquet")
    assert "No rows yet" in page_of(tmp_path)


def test_an_empty_folder_makes_a_report_and_a_missing_one_an_error(tmp_path: Path) -> None:
    assert "No rows yet" in page_of(tmp_path)
    with pytest.raises(InputError, match="expected the folder of a run"):
        write_report(tmp_path / "missing")


@pytest.mark.parametrize("name", ["config.yaml", "plan.json", "round-1/metrics.json", "events/phases.jsonl"])
def test_a_damaged_small_file_does_not_stop_the_report(run_folder: Path, name: str) -> None:
    (run_folder / name).write_bytes(b"\xff{[not this: :")
    assert '<ol class="funnel">' in page_of(run_folder)


def test_metrics_of_another_shape_do_not_stop_the_report(run_folder: Path) -> None:
    strange = {"primary": 3, "retrieval": [], "captioning": {"examples": "none", "cider_d": None}, "filter_quality": {"web": 1}}
    (run_folder / "round-1" / "metrics.json").write_text(json.dumps(strange))
    assert '<ol class="funnel">' in page_of(run_folder)


def test_rows_without_candidates_are_told(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "round-1" / "selection")
    sorted((run_folder / "round-1" / "candidates").glob("*.parquet"))[-1].unlink()
    assert "80 more rows of the pool wait" in page_of(run_folder)


def test_what_captioner_and_filter_have_in_common_is_told_with_its_price(run_folder: Path) -> None:
    assert 'id="pairing"' not in write_report(run_folder).read_text()
    line = {"phase": "round-1/candidates", "trunk": "shared", "weights": "separate", "fused": True, "apart": ""}
    (run_folder / "events" / "pairing.jsonl").write_text(json.dumps(line) + "\n")
    page = write_report(run_folder).read_text()
    section = page.partition('id="pairing"')[2].partition("</section>")[0]
    assert "each picture was decoded and encoded once" in section
    assert "Pictures per second" in section
    assert "Noise found, web texts" in section
    assert "ROC AUC of the filter by the truth, synthetic texts" in section
    assert "same weights" not in section
    line |= {"weights": "shared", "fused": False, "apart": "resources.fuse is false"}
    (run_folder / "events" / "pairing.jsonl").write_text(json.dumps(line) + "\n")
    page = write_report(run_folder).read_text()
    assert "Captioner and filter are the same weights" in page
    assert "BLIP, Table 4" in page
    assert "They ran apart all the same: resources.fuse is false" in page


def test_a_policy_that_goes_by_the_cosine_is_shown_by_the_cosine(run_folder: Path) -> None:
    assert "ITM score" in page_of(run_folder)
    config = run_folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("min_itm: 0.5", "min_itc: -0.25"), encoding="utf-8")
    page = page_of(run_folder)
    assert "ITM score" not in page
    assert "cosine (ITC)" in page
    assert "A cosine below 0 stands at 0." in page
    assert "At the threshold of -0.25 it rejects 0.0 % of the" in page


def test_a_stricter_threshold_is_proposed_in_the_score_that_decides(run_folder: Path) -> None:
    assert "--set select.min_itm=0.7 --write" in page_of(run_folder)
    config = run_folder / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("min_itm: 0.5", "min_itc: 0.4"), encoding="utf-8")
    assert "--set select.min_itc=0.64 --write" in page_of(run_folder)


def test_held_out_pictures_of_ones_own_are_shown_wherever_they_lie(run_folder: Path, tmp_path: Path) -> None:
    config, own = run_folder / "config.yaml", tmp_path / "mine" / "heldout.parquet"
    there = page_of(run_folder)
    assert "no picture" not in there
    own.parent.mkdir()
    (run_folder / "miniweb" / "heldout.parquet").rename(own)
    assert "no picture" in page_of(run_folder)
    named = config.read_text(encoding="utf-8").replace("runs/quickstart/miniweb/heldout.parquet", str(own))
    config.write_text(named, encoding="utf-8")
    assert page_of(run_folder) == there


def test_models_that_guess_are_told_so_in_figures_that_differ(run_folder: Path, rewrite_json: Rewrite) -> None:
    for number, value, ends in ((0, 0.0007, [0.0001, 0.0015]), (1, 0.0014, [0.0006, 0.0027])):
        primary = {"name": "mean_recall_at_1", "value": value, "interval": ends}
        weak = {"primary": primary, "retrieval": {"pairs": 1000}}
        rewrite_json(run_folder / f"round-{number}" / "metrics.json", lambda told, weak=weak: told.update(weak))
    page = page_of(run_folder)
    assert "<b>0.07 %</b>" in page
    assert "<b>0.14 %</b>" in page
    assert "+0.07 points" in page
    assert "Neither is told from guessing, 0.10 %." in page
