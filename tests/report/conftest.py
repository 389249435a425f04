"""A small made-up run folder with the real schemas: what a finished run leaves behind, without running anything."""

import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from capfilt.identity import chunk_id, row_id, uid_of
from capfilt.miniweb.drawing import render
from capfilt.miniweb.language import describe, is_true
from capfilt.miniweb.world import Scene, World, sample_scene
from capfilt.schema import PAIRS, SELECTION, candidates_schema, pool_schema

HOSTILE = '<script>alert("from the web")</script> & "quotes" \x00'
WORLD = World()
KINDS = (
    "correct",
    "correct",
    "correct",
    "correct",
    "partly_wrong",
    "other_picture",
    "spam",
    "file_name",
    "other_language",
    "empty",
)
FAILURES = (
    [("download_failed", "http_404")] * 5
    + [
        ("download_failed", "timeout: 3 s"),
        ("download_failed", "timeout"),
        ("opted_out", "x_robots_tag: noai"),
        ("opted_out", "robots_txt"),
    ]
    + [("image_invalid", "not_an_image: text/html"), ("image_invalid", "truncated"), ("rule_rejected", "min_side: 24 < 32")]
)


@dataclass
class Pieces:
    """Rows on their way into the run's tables."""

    pool: list[dict[str, Any]] = field(default_factory=list)
    selection: list[dict[str, Any]] = field(default_factory=list)
    truth: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went through every section. Do not write into it: `run_folder` gives copies."""
    folder = tmp_path_factory.mktemp("runs") / "quickstart"
    make_run(folder, rows=240)
    return folder


@pytest.fixture
def run_folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may maim."""
    return Path(shutil.copytree(finished_run, tmp_path / "quickstart"))


@pytest.fixture
def rewrite_json() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Change a JSON file in place."""

    def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return rewrite


def make_run(folder: Path, rows: int) -> None:
    rng = Random(7)
    _config(folder)
    for number in range(2):
        _training(folder / f"round-{number}" / "training", number, rng)
    heldout = _heldout(folder, rng)
    for number in range(2):
        _metrics(folder / f"round-{number}" / "metrics.json", number, heldout)
    pieces = Pieces()
    chunks = sorted(chunk_id("web.parquet", "etag", start, rows // 3) for start in range(0, rows, rows // 3))
    for number in range(rows):
        _row(pieces, row_id(chunks[number * 3 // rows], number % (rows // 3)), number, rng)
    _tables(folder, chunks, pieces)
    (folder / "events").mkdir()
    seconds = {"miniweb": 9.4, "pool": 41.0, "round-0/pretrain": 121.3, "round-0/finetune": 44.2, "round-0/evaluate": 7.8}
    seconds |= {"round-1/candidates": 52.6, "round-1/dedup": 1.1, "round-1/select": 0.4, "round-1/write": 2.2}
    seconds |= {"round-1/pretrain": 118.9, "round-1/finetune": 43.5, "round-1/evaluate": 8.1}
    started, lines = 1_795_238_400.0, []
    for name, value in seconds.items():
        lines.append(json.dumps({"phase": name, "seconds": value, "started": started}))
        started += value
    (folder / "events" / "phases.jsonl").write_text("\n".join(lines) + '\n{"phase": "cut by a cra')


def _config(folder: Path) -> None:
    folder.mkdir(parents=True)
    config = {
        "version": 1,
        "name": "quickstart",
        "seed": 0,
        "output": "runs/quickstart",
        "rounds": 1,
        "select": {"policy": "both", "min_itm": 0.5},
        "evaluate": {"heldout": "runs/quickstart/miniweb/heldout.parquet", "truth": "{output}/miniweb/truth.parquet"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    versions = {"capfilt": "0.1.0", "torch": "2.13.0", "ray": "2.60.0"}
    (folder / "plan.json").write_text(json.dumps({"fingerprint": "3f9a0c11d2e87b45", "versions": versions}))


def _row(pieces: Pieces, row: str, number: int, rng: Random) -> None:
    url, kind = f"http://{'ab'[number % 2]}.miniweb.test/{number:05d}.jpg", KINDS[number % len(KINDS)]
    scene = sample_scene(WORLD, rng)
    if rng.random() < 0.3 and number != 4:
        status, error = FAILURES[rng.randrange(len(FAILURES))]
    else:
        status, error = "ok", None
    copy = number % 23 == 22 and pieces.pool[-1]["status"] == "ok"
    if copy:
        scene, status, error = Scene.from_json(pieces.truth[-1]["scene"]), "ok", None
    text = _web_text(kind, scene, rng) if number != 4 else HOSTILE
    web_true = text is not None and kind == "correct" and number != 4
    image = _jpeg(scene, rng) if status in ("ok", "rule_rejected") else None
    synthetic = describe(scene if rng.random() < 0.75 else sample_scene(WORLD, rng), rng)
    captions: list[dict[str, Any]] = []
    if status == "ok":
        if text is not None:
            captions.append(_caption(text, "web", _score(web_true, rng), "not_file_name" if kind == "file_name" else None))
        captions.append(_caption(synthetic, "synthetic", _score(is_true(synthetic, scene), rng), None))
    reasons = [_reason(caption) for caption in captions]
    group, survivor = (pieces.selection[-1]["group"], False) if copy else (row, True)
    by = "miniweb/heldout.parquet#h00007" if status == "ok" and number % 37 == 11 else None
    wrong = "contaminated" if by else "duplicate" if copy else None
    reasons = (
        [wrong if wrong and reason == "kept" else reason for reason in reasons] if captions else ["row_not_ok"] * len(captions)
    )
    pieces.pool.append(
        {
            "row_id": row,
            "uid": uid_of(url, text),
            "url": url,
            "text": text,
            "status": status,
            "error": error,
            "image": image,
            "width": 96,
            "height": 96,
            "original_width": 128,
            "original_height": 128,
            "consent": "none",
            "captions": captions,
            "sha256": hashlib.sha256(image or b"").hexdigest(),
        }
    )
    pieces.selection.append(
        {
            "row_id": row,
            "uid": uid_of(url, text),
            "group": group,
            "survivor": survivor and "kept" in reasons,
            "contaminated_by": by,
            "kept": [reason == "kept" for reason in reasons],
            "reason": reasons,
        }
    )
    pieces.truth.append({"url": url, "key": None, "text_is_true": web_true, "noise_kind": kind, "scene": scene.to_json()})


def _web_text(kind: str, scene: Scene, rng: Random) -> str | None:
    plain = {
        "spam": "Buy cheap posters online | best price | free shipping | " + "sale " * 60,
        "file_name": "IMG_2034.JPG",
        "empty": None,
    }
    plain["other_language"] = "ein großer roter Kreis, links im Bild, fotografiert am Abend"
    return plain[kind] if kind in plain else describe(scene if kind == "correct" else sample_scene(WORLD, rng), rng)


def _score(is_right: bool, rng: Random) -> float:
    return 1 / (1 + math.exp(-rng.gauss(3.0 if is_right else -3.0, 2.0)))


def _caption(text: str, origin: str, itm: float, rule: str | None) -> dict[str, Any]:
    made = {"captioner": None, "k": None, "log_prob": None} if origin == "web" else {"captioner": "med", "k": 0, "log_prob": -7.5}
    scores = [] if rule else [{"filter": "med", "itm": itm, "itc": itm * 0.6 - 0.1}]
    return {"text": text, "origin": origin, **made, "rule": rule, "error": None, "scores": scores}


def _reason(caption: dict[str, Any]) -> str:
    if caption["rule"]:
        return "rule"
    return "kept" if caption["scores"][0]["itm"] >= 0.5 else "below_threshold"


def _jpeg(scene: Scene, rng: Random) -> bytes:
    wide = rng.choice(((96, 96), (128, 96), (96, 120)))
    out = io.BytesIO()
    picture: Image.Image = render(scene, width=wide[0], height=wide[1], rng=rng)
    picture.save(out, "JPEG", quality=92)
    return out.getvalue()


def _tables(folder: Path, chunks: list[str], pieces: Pieces) -> None:
    one = folder / "round-1"
    for name in ("pool", "round-1/candidates", "round-1/selection", "round-1/dedup"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for chunk in chunks:
        rows = [row for row in pieces.pool if row["row_id"].startswith(chunk)]
        embedded = [{**row, "embedding": rng.normal(size=8).astype(np.float16).tolist()} for row in rows]
        screened = [
            {**row, "captions": [{**text, "scores": []} for text in row["captions"] if text["origin"] == "web"]} for row in rows
        ]
        pq.write_table(
            pa.Table.from_pylist(screened, pool_schema()), folder / "pool" / f"chunk-{chunk}.parquet", row_group_size=50
        )
        pq.write_table(pa.Table.from_pylist(embedded, candidates_schema(8)), one / "candidates" / f"chunk-{chunk}.parquet")
    pq.write_table(pa.Table.from_pylist(pieces.selection, SELECTION), one / "selection" / "selection.parquet", row_group_size=64)
    pairs = [
        {"a": row["group"], "b": row["row_id"], "cosine": 0.981, "kind": "cosine"}
        for row in pieces.selection
        if row["group"] != row["row_id"]
    ]
    pq.write_table(pa.Table.from_pylist(pairs), one / "dedup" / "pairs.parquet")
    pq.write_table(pa.Table.from_pylist(pieces.truth), folder / "miniweb" / "truth.parquet")


def _heldout(folder: Path, rng: Random) -> list[tuple[str, Scene]]:
    scenes = [(f"h{number:05d}", sample_scene(WORLD, rng)) for number in range(12)]
    rows = [
        {"key": key, "image": _jpeg(scene, rng), "width": 96, "height": 96, "captions": [describe(scene, rng)]}
        for key, scene in scenes
    ]
    (folder / "miniweb").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, PAIRS), folder / "miniweb" / "heldout.parquet")
    return scenes


def _metrics(path: Path, number: int, heldout: list[tuple[str, Scene]]) -> None:
    rng, gain = Random(number), 0.2 * number
    text = {"r1": 0.221 + gain, "r5": 0.478 + gain, "r10": 0.612 + gain}
    image = {"r1": 0.196 + gain, "r5": 0.455 + gain, "r10": 0.597 + gain}
    around = {
        f"{name}_r1": [one["r1"] - 0.03, one["r1"] + 0.04] for name, one in (("text_retrieval", text), ("image_retrieval", image))
    }
    examples = []
    for index, (key, scene) in enumerate(heldout):
        right = number == 1 or index % 3 == 0
        told = describe(scene if right else sample_scene(WORLD, rng), rng)
        examples.append({"key": key, "caption": told, "references": [describe(scene, rng)], "true": is_true(told, scene)})
    kinds = {
        "correct": {"count": 1210, "true": 1210, "kept": 1098, "kept_share": 0.907, "roc_auc": None},
        "partly_wrong": {"count": 402, "true": 3, "kept": 88, "kept_share": 0.219, "roc_auc": 0.912},
        "other_picture": {"count": 300, "true": 11, "kept": 14, "kept_share": 0.047, "roc_auc": 0.987},
        "spam": {"count": 121, "true": 0, "kept": 0, "kept_share": 0.0, "roc_auc": 0.999},
    }
    web = {
        "count": 2033,
        "true": 1224,
        "kept": 1200,
        "precision": 0.915,
        "recall": 0.897,
        "roc_auc": 0.958,
        "by_noise_kind": kinds,
    }
    dataset = {"all": {"count": 2900, "true": 2719, "true_share": 0.9376}}
    synthetic = {
        "count": 2400,
        "true_before": 0.742,
        "true_after": 0.956,
        "precision": 0.956,
        "recall": 0.93,
        "roc_auc": 0.964,
        "false_count": 619,
    }
    value = (text["r1"] + image["r1"]) / 2
    metrics = {
        "round": number,
        "primary": {"name": "mean_recall_at_1", "value": value, "interval": [value - 0.031, value + 0.033]},
        "retrieval": {"pairs": 500, "model": "pretrained", "text_retrieval": text, "image_retrieval": image, "interval": around},
        "captioning": {
            "cider_d": 1.21 + 1.3 * gain,
            "cider_d_interval": [1.1 + 1.3 * gain, 1.3 + 1.3 * gain],
            "exact_scene": 0.34 + gain,
            "true": 0.61 + gain,
            "examples": examples,
        },
        "filter_quality": None
        if number == 0
        else {
            "scored_by": "round-0 filter",
            "noise_ratio": {"web": 0.41, "synthetic": 0.25},
            "web": web,
            "synthetic": synthetic,
            "dataset": dataset,
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metrics))


def _training(folder: Path, number: int, rng: Random) -> None:
    plans = {"pretrain": (("itc", "itm", "lm"), 900, 5), "captioner": (("lm",), 300, 5), "filter": (("itc", "itm"), 300, 5)}
    floors = {"itc": 1.5, "itm": 0.25, "lm": 1.6}
    for name, (losses, steps, every) in plans.items():
        (folder / name).mkdir(parents=True)
        with (folder / name / "log.jsonl").open("w") as out:
            for step in range(every, steps + 1, every):
                left = 1 / (1 + math.exp((step - 350 + 120 * number) / 60)) if name == "pretrain" else math.exp(-step / 80) * 0.3
                told = {loss: floors[loss] * (1.1 - 0.15 * number) + 2.0 * left + rng.gauss(0, 0.09) for loss in losses}
                line = {
                    "step": step,
                    "lr": 0.002,
                    "loss": sum(told.values()),
                    **{one: told.get(one) for one in floors},
                    "pairs_per_s": 240.0,
                }
                out.write(json.dumps(line) + "\n")
