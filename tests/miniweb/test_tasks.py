import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest

from capfilt.images import decode_rgb
from capfilt.miniweb.drawing import COLOURS
from capfilt.miniweb.tasks import ACTIONS, FRAMES, HIDDEN, SCHEMAS, build_tasks, clip, comparison, question, statement
from capfilt.miniweb.world import World

WORLD = World()


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        build_tasks(tmp_path / folder, rows=4, seed=5)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(f"{part}-{name}.parquet" for part in ("train", "test") for name in SCHEMAS)
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names)
    train, test = (pq.read_table(tmp_path / "one" / f"{part}-labelled.parquet") for part in ("train", "test"))
    assert (train.num_rows, test.num_rows) == (4, 2)
    assert not set(train["image"].to_pylist()) & set(test["image"].to_pylist())


def test_half_of_the_statements_are_false_and_half_of_the_true_ones_neutral() -> None:
    rows = [statement(WORLD, Random(i)) for i in range(200)]
    counts = Counter(row["label"] for row in rows)
    assert 75 < counts["contradiction"] < 125
    assert 25 < counts["neutral"] < 75
    assert 25 < counts["entailment"] < 75
    says_hidden = {row["label"]: set() for row in rows}  # type: dict[str, set[bool]]
    for row in rows:
        says_hidden[row["label"]].add(bool(set(row["text"].split()) & set(HIDDEN)))
    assert says_hidden == {"entailment": {False}, "neutral": {True}, "contradiction": {False, True}}


def test_statements_about_two_pictures_are_fairly_true() -> None:
    labels = Counter(comparison(WORLD, Random(i))["label"] for i in range(150))
    assert set(labels) == {"true", "false"}
    assert 50 < labels["true"] < 100


def test_questions_have_answers_of_their_kind() -> None:
    kinds: dict[str, set[str]] = {}
    for i in range(150):
        row = question(WORLD, Random(i))
        kinds.setdefault(" ".join(row["question"].split()[:2]), set()).add(row["answer"])
    assert kinds["is there"] == {"yes", "no"}
    assert kinds["how many"] == {"one", "two"}
    assert kinds["what colour"] <= set(WORLD.vocabulary.colours)
    assert kinds["what shape"] <= set(WORLD.vocabulary.shapes)
    assert kinds["where is"] <= {"left", "right", "top", "bottom", "middle"}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_thing_does_what_its_clip_is_labelled_with(action: str) -> None:
    rows = (clip(WORLD, Random(i)) for i in range(400))
    row = next(row for row in rows if row["label"] == action and " red circle" not in row["captions"][0])
    assert len(row["frames"]) == FRAMES
    colour = next(word for word in row["captions"][0].split() if word in COLOURS)
    places = []
    for data in (row["frames"][0], row["frames"][-1]):
        pixels = np.asarray(decode_rgb(data)).astype(int)
        behind = np.asarray(decode_rgb(row["frames"][FRAMES // 2])).astype(int)
        # Where this frame differs from the middle one and looks like the thing.
        is_thing = np.abs(pixels - np.array(COLOURS[colour])).sum(2) < 90
        is_moved = np.abs(pixels - behind).sum(2) > 60
        ys, xs = np.nonzero(is_thing & is_moved) if action != "growing" else np.nonzero(is_thing)
        places.append((xs.mean(), ys.mean(), len(xs)))
    (x0, y0, n0), (x1, y1, n1) = places
    moved = {"left": x0 - x1, "right": x1 - x0, "up": y0 - y1, "down": y1 - y0, "growing": (n1 - n0) / 4}
    assert moved[action] > 5


def test_the_command_writes_the_files_that_are_asked_for(tmp_path: Path) -> None:
    asked = [str(tmp_path), "--rows", "2", "--only", "entailment", "vqa"]
    subprocess.run([sys.executable, "-m", "capfilt.miniweb.tasks", *asked], check=True)
    names = [f"{part}-{name}.parquet" for part in ("test", "train") for name in ("entailment", "vqa")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
