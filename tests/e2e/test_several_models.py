"""Several captioners and several filters in one round: candidates of all, scores of all, one decision."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from capfilt.config.load import load_pipeline
from capfilt.config.select import Combine, SelectConfig
from capfilt.errors import ConfigError
from capfilt.rounds import run_pipeline
from capfilt.run.explain import explain
from capfilt.run.planning import plan_pipeline
from capfilt.run.progress import SilentProgress
from capfilt.run.verify import verify
from capfilt.run.views import select_again
from capfilt.stages.combine import combined
from capfilt.stages.select import select_view
from tests.e2e.test_families import OF_ONE, SMALL
from tests.tiny import save_tiny

Row = dict[str, Any]


def run_with(place: Path, captioners: str, filters: str, *settings: str) -> Path:
    said = [
        *SMALL,
        *(f"pretrain.{one}" for one in OF_ONE),
        f"caption.captioner={captioners}",
        f"filter.filter={filters}",
        *settings,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run_pipeline(load_pipeline("quickstart", said), source=Path("quickstart.yaml"), progress=SilentProgress())
    return place / "runs" / "quickstart"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("others")
    return {family: save_tiny(family, place / family) for family in ("coca", "blip2", "soho")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, others: dict[str, Path]) -> Path:
    captioners = f"[{{kind: trained}}, {{kind: coca, checkpoint: {others['coca']}, name: theirs}}]"
    filters = f"[{{kind: trained}}, {{kind: blip2, checkpoint: {others['blip2']}}}, {{kind: soho, checkpoint: {others['soho']}}}]"
    return run_with(
        tmp_path_factory.mktemp("several"), captioners, filters, "select.combine=vote", "caption.captions_per_image=2"
    )


def rows(run: Path) -> list[Row]:
    paths = sorted((run / "round-1" / "candidates").glob("chunk-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist() if row["status"] == "ok"]


def test_every_captioner_writes_and_every_filter_scores_every_text(run: Path) -> None:
    found = rows(run)
    assert found
    for row in found:
        written = [(text["captioner"], text["k"]) for text in row["captions"] if text["origin"] == "synthetic"]
        assert written == [("round-0/captioner", 0), ("round-0/captioner", 1), ("theirs", 0), ("theirs", 1)]
        assert len(row["embedding"]) == len(found[0]["embedding"])
        for text in row["captions"]:
            if text["rule"] is None and text["error"] is None:
                assert [score["filter"] for score in text["scores"]] == ["round-0/filter", "blip2", "soho"]


@pytest.mark.parametrize("how", ["mean", "min", "vote"])
def test_select_combines_the_scores_as_it_is_told(run: Path, how: Combine) -> None:
    own = [text for row in rows(run) for text in row["captions"] if text["scores"]]
    scores = [[score["itm"] for score in text["scores"]] for text in own]
    threshold = sorted(combined(values, how) for values in scores)[len(scores) // 2]
    policy = SelectConfig(combine=how, min_itm=threshold)
    summary = select_view(run, f"by-{how}", policy, None)
    reached = sum(combined(values, how) >= threshold for values in scores)
    assert summary["kept_texts"] == reached
    assert summary["combine"] == how
    assert set(summary["filters"]) == {"round-0/filter", "blip2", "soho"}
    assert summary["filters"]["soho"]["scored"] == len(own)


def test_the_measures_tell_whose_errors_each_filter_lets_pass(run: Path) -> None:
    quality = json.loads((run / "round-1" / "metrics.json").read_text())["filter_quality"]
    assert set(quality["missed"]) == {"round-0/captioner", "theirs"}
    assert set(quality["missed"]["theirs"]) == {"round-0/filter", "blip2", "soho", "(together)"}
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "Whose errors each filter lets pass" in report
    assert "theirs" in report
    assert "by vote" in report


def test_the_data_card_names_them_all_and_the_run_is_verified(run: Path, others: dict[str, Path]) -> None:
    card = (run / "round-1" / "dataset" / "README.md").read_text(encoding="utf-8")
    assert f"and CoCa {others['coca']}" in card
    assert f"and SOHO {others['soho']}" in card
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run.parent.parent)
        found = verify(load_pipeline(run / "config.yaml"), rows=3, seed=0, progress=SilentProgress())
    assert found.differences == []


def test_a_list_of_one_is_that_one() -> None:
    plain = load_pipeline("quickstart", ["filter.filter={kind: med, checkpoint: a}"])
    listed = load_pipeline("quickstart", ["filter.filter=[{kind: med, checkpoint: a}]"])
    assert listed == plain


def refused(place: Path, captioners: str, filters: str, *settings: str) -> str:
    with pytest.raises(ConfigError) as told:
        run_with(place, captioners, filters, *settings)
    return str(told.value)


def test_what_cannot_be_told_apart_or_judged_is_refused(tmp_path: Path, others: dict[str, Path]) -> None:
    twin = save_tiny("med", tmp_path / "a" / "med")
    again = save_tiny("med", tmp_path / "b" / "med")
    trained = "{kind: trained}"
    two = f"[{{kind: med, checkpoint: {twin}}}, {{kind: med, checkpoint: {again}}}]"
    assert "different names, found med twice. Give one of them a `name`" in refused(tmp_path, trained, two)
    assert "`kind: trained` once at most" in refused(tmp_path, "[{kind: trained}, {kind: trained, name: b}]", trained)
    of_blip2 = f"[{{kind: trained}}, {{kind: blip2, checkpoint: {others['blip2']}}}]"
    assert "captioner and filter are the same weights" in refused(tmp_path, of_blip2, of_blip2)
    copied = f"[{trained}, {{kind: med, checkpoint: {again}, name: b}}]"
    filters = f"[{trained}, {{kind: med, checkpoint: {twin}}}]"
    assert "expected other weights than the captioner's" in refused(tmp_path, copied, filters)


def test_a_filter_without_the_score_that_is_judged_by_is_refused_before_any_work(tmp_path: Path, others: dict[str, Path]) -> None:
    filters = f"[{{kind: trained}}, {{kind: coca, checkpoint: {others['coca']}}}]"
    told = refused(tmp_path, "{kind: trained}", filters)
    assert f"expected ITM from every filter, found none from {others['coca']}" in told
    assert "select.min_itc" in told
    assert not (tmp_path / "runs" / "quickstart" / "pool").exists()


@pytest.fixture(scope="module")
def judged_apart(tmp_path_factory: pytest.TempPathFactory, others: dict[str, Path]) -> Path:
    """A run whose filters have nothing in common: SOHO has ITM, CoCa a cosine."""
    filters = "[" + ", ".join(f"{{kind: {family}, checkpoint: {others[family]}}}" for family in ("soho", "coca")) + "]"
    apart = ("select.combine=vote", "select.min_itm=0", "select.by.coca.min_itc=-0.99")
    return run_with(tmp_path_factory.mktemp("apart"), "{kind: trained}", filters, *apart)


def scores_of(text: Row) -> tuple[float, float]:
    soho, coca = text["scores"]
    assert (soho["itc"], coca["itm"]) == (None, None)
    return soho["itm"], coca["itc"]


def test_filters_without_a_score_in_common_decide_together(judged_apart: Path) -> None:
    scores = [scores_of(text) for row in rows(judged_apart) for text in row["captions"] if text["scores"]]
    itm, itc = (sorted(values)[len(scores) // 3] for values in zip(*scores, strict=True))
    again = ["select.combine=min", f"select.min_itm={itm}", f"select.by.coca.min_itc={itc}"]
    summary, view = select_again(
        judged_apart, "apart", load_pipeline(judged_apart / "config.yaml", again), round_number=None, write=True
    )
    believed = [(m, c) for m, c in scores if np.float32(m) >= np.float32(itm) and np.float32(c) >= np.float32(itc)]
    reasons = [own["reasons"] for own in summary["texts"].values()]
    passing = sum(own.get(reason, 0) for own in reasons for reason in ("kept", "duplicate"))
    assert 0 < passing == len(believed) < len(scores)
    assert summary["kept_texts"] > 0
    assert {name: (own["score"], own["threshold"]) for name, own in summary["filters"].items()} == {
        "soho": ("itm", itm),
        "coca": ("itc", itc),
    }
    card = (view / "dataset" / "README.md").read_text(encoding="utf-8")
    assert "| soho believes a text at ITM >= |" in card
    assert "| coca believes a text at cosine >= |" in card


def test_each_filters_threshold_is_told_wherever_the_run_is(judged_apart: Path) -> None:
    quality = json.loads((judged_apart / "round-1" / "metrics.json").read_text())["filter_quality"]
    told = {name: (own["score"], own["threshold"]) for name, own in quality["missed"]["round-0/captioner"].items()}
    assert told == {"soho": ("itm", 0), "coca": ("itc", -0.99), "(together)": ("relative", 0.5)}
    report = (judged_apart / "report.html").read_text(encoding="utf-8")
    assert "Each has a threshold of its own: soho by ITM 0, coca by cosine -0.99." in report
    assert "coca<small>cosine -0.99</small>" in report
    assert "cosine (ITC)" in report
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(judged_apart.parent.parent)
        notes = plan_pipeline(load_pipeline(judged_apart / "config.yaml")).notes
    assert "select: vote of soho by ITM 0, coca by cosine -0.99" in notes
    (row,) = explain(judged_apart, rows(judged_apart)[0]["row_id"])
    judged = row["rounds"][0]["judged"]
    assert judged["filters"] == {"soho": {"score": "itm", "threshold": 0}, "coca": {"score": "itc", "threshold": -0.99}}


def test_so_is_one_that_this_run_is_to_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"expected ITM from every filter, found none from the coca that this run trains"):
        run_pipeline(
            load_pipeline("quickstart_coca", ["select.min_itc=null", "resources.executor=local"]), progress=SilentProgress()
        )
    assert not (tmp_path / "runs" / "quickstart_coca" / "pool").exists()
