"""The quickstart of each family from end to end at a small size: the same files and the same report as MED's."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from capfilt.config.load import load_pipeline
from capfilt.modeling.families import load_network
from capfilt.rounds import run_pipeline
from capfilt.run.progress import SilentProgress

SMALL = [
    "miniweb.pictures=40",
    "miniweb.human_pairs=8",
    "miniweb.heldout_pairs=6",
    "read.rows_per_chunk=32",
    "caption.batch_size=8",
    "caption.decode.max_length=14",
    "filter.batch_size=8",
    "dedup.min_cosine=1",
    "select.min_itm=0",
    "write.rows_per_shard=16",
    "evaluate.bootstrap=20",
    "evaluate.captioning.decode={kind: beam, beams: 2, max_length: 14}",
    "report.cards=6",
    "resources.executor=local",
    "resources.retries_per_chunk=1",
    "resources.max_failure_rate={caption: null, filter: null}",
    "finetune.captioner.steps=3",
    "finetune.filter.steps=3",
    "finetune.captioner.threads=1",
    "finetune.filter.threads=1",
    "finetune.captioner.batch_size=4",
    "finetune.filter.batch_size=4",
]
OF_ONE = ("steps=4", "batch_size=6", "threads=1", "checkpoint_every_steps=3")
FAMILIES: dict[str, dict[str, str]] = {
    "coca": {"pretrained": "coca", "captioner": "coca", "filter": "coca"},
    "blip2": {"encoder": "med", "qformer": "blip2", "captioner": "blip2", "filter": "blip2"},
    "clipcap": {"med": "med", "clipcap": "clipcap", "captioner": "clipcap", "filter": "med"},
    "soho": {"med": "med", "soho": "soho", "captioner": "med", "filter": "soho"},
}
SCORES = {"coca": {"itc"}, "blip2": {"itm", "itc"}, "clipcap": {"itm", "itc"}, "soho": {"itm"}}


def run_small(family: str, place: Path) -> Path:
    name = f"quickstart_{family}"
    several = len(load_pipeline(name).pretrainings) > 1
    sections = ["pretrain.0", "pretrain.1"] if several else ["pretrain"]
    settings = [*SMALL, *(f"{section}.{one}" for section in sections for one in OF_ONE)]
    if family == "coca":
        settings += ["select.min_itc=-1", "miniweb.labelled_pictures=5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run_pipeline(load_pipeline(name, settings), source=Path(f"{name}.yaml"), progress=SilentProgress())
    return place / "runs" / name


Finished = Callable[[str], Path]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A family's run, made once."""
    return cache(lambda family: run_small(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(params=FAMILIES)
def finished_family(request: pytest.FixtureRequest, finished_run: Finished) -> tuple[str, Path]:
    return request.param, finished_run(request.param)


def captions(run: Path) -> list[dict[str, Any]]:
    paths = sorted((run / "round-1" / "candidates").glob("chunk-*.parquet"))
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    return [text for row in rows if row["status"] == "ok" for text in row["captions"]]


def test_both_rounds_make_the_families_models(finished_family: tuple[str, Path]) -> None:
    family, run = finished_family
    for number in (0, 1):
        made = {folder.name: load_network(folder).architecture.kind for folder in (run / f"round-{number}" / "models").iterdir()}
        assert made == FAMILIES[family]


def test_the_round_captions_and_filters_every_healthy_picture(finished_family: tuple[str, Path]) -> None:
    family, run = finished_family
    texts = captions(run)
    written = [text for text in texts if text["origin"] == "synthetic"]
    assert written
    assert {text["captioner"] for text in written} == {"round-0/captioner"}
    scored = [text for text in texts if text["rule"] is None and text["error"] is None]
    assert scored
    for text in scored:
        (score,) = text["scores"]
        assert score["filter"] == "round-0/filter"
        assert {name for name in ("itm", "itc") if score[name] is not None} == SCORES[family]


def test_a_data_set_measures_and_a_report_come_out(finished_family: tuple[str, Path]) -> None:
    _, run = finished_family
    dataset = run / "round-1" / "dataset"
    assert json.loads((dataset / "manifest.json").read_text())["rows"] > 0
    assert list((dataset / "webdataset").glob("*.tar"))
    for number in (0, 1):
        measured = json.loads((run / f"round-{number}" / "metrics.json").read_text())
        assert 0 <= measured["primary"]["value"] <= 1
        assert measured["captioning"]["cider_d"] is not None
    assert measured["filter_quality"]["web"]["count"] > 0
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "How the models learned" in html
    assert "What the filter thinks" in html


def test_a_captioner_goes_on_from_the_embeddings_of_a_finished_run(finished_run: Finished) -> None:
    run = finished_run("clipcap")
    place = run.parent.parent
    start = load_network(run / "round-1" / "models" / "captioner").model.state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        settings = ["finetune.captioner.steps=3", "finetune.captioner.batch_size=4", "finetune.captioner.embeddings.min_itm=0"]
        pipeline = load_pipeline("captioner_from_embeddings", settings)
        run_pipeline(pipeline, source=Path("captioner_from_embeddings.yaml"), progress=SilentProgress())
    made = load_network(place / "runs" / "captioner_from_embeddings" / "round-1" / "models" / "captioner").model.state_dict()
    eyes = load_network(run / "round-0" / "models" / "filter").model.state_dict()
    assert any(not made[name].equal(start[name]) for name in made if name.startswith("mapper."))
    assert made["embedder.image_projection.weight"].equal(eyes["image_projection.weight"])


def test_a_second_stage_of_blip2_runs_in_the_line_and_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from capfilt.run.verify import verify

    sections = [
        ("encoder", "med_tiny", "", "{itc: 1, itm: 1, lm: 1}"),
        ("words", "clipcap_tiny", "image: encoder", "{lm: 1}"),
        ("qformer", "blip2_tiny", "image: encoder", "{itc: 1, itm: 1, lm: 1}"),
        ("stage_2", "blip2_tiny_lm", "image: qformer, text: words", "{lm: 1}"),
    ]
    common = (
        'mix: {web: 0.8, human: 0.2}, human: "{output}/miniweb/human.parquet", steps: 2, batch_size: 6, lr: 0.001, threads: 1'
    )
    several = ", ".join(
        f"{{name: {name}, architecture: {network}, init: {{{begins}}}, losses: {losses}, {common}}}"
        for name, network, begins, losses in sections
    )
    settings = [*SMALL, f"pretrain=[{several}]", "finetune.captioner.start=stage_2", "finetune.filter.start=qformer"]
    monkeypatch.chdir(tmp_path)
    pipeline = load_pipeline("quickstart_blip2", settings)
    run_pipeline(pipeline, source=Path("x.yaml"), progress=SilentProgress(), until="caption")
    run = tmp_path / "runs" / "quickstart_blip2"
    assert any(text["origin"] == "synthetic" for text in captions(run))
    frozen, kept = (sorted((run / "round-0" / "models" / name / "language").glob("*")) for name in ("stage_2", "captioner"))
    assert [path.name for path in frozen] == [path.name for path in kept] != []
    assert [path.read_bytes() for path in frozen] == [path.read_bytes() for path in kept]
    assert verify(pipeline, rows=4, seed=0, progress=SilentProgress()).differences == []
