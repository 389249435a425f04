"""A pipeline without `read`: it trains on shards, and fine-tunes."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from capfilt.config.load import load_pipeline
from capfilt.errors import ConfigError, RunStateError
from capfilt.plan import make_plan
from capfilt.rounds import run_pipeline
from capfilt.run import index
from capfilt.run.again import Again
from capfilt.run.planning import plan_pipeline
from capfilt.run.progress import SilentProgress
from capfilt.run.retry import retry_quarantined, retry_rows
from capfilt.run.state import record
from capfilt.run.steps import Steps
from capfilt.run.verify import verify

OPTIM = {"steps": 2, "batch_size": 4, "lr": 0.001, "threads": 1}


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def sections(tmp_path):
    rows = [{"image": picture(i), "text": f"a red thing {i}", "captions": [f"a red thing {i}"]} for i in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    pairs = str(tmp_path / "pairs.parquet")
    return {
        "version": 1,
        "name": "t",
        "output": str(tmp_path / "run"),
        "pretrain": {
            **OPTIM,
            "architecture": "med_tiny",
            "web": {"kind": "parquet_images", "paths": [pairs]},
            "mix": {"web": 1, "human": 0},
            "losses": {"itc": 1, "itm": 1, "lm": 1},
        },
        "finetune": {"human": pairs, "filter": {**OPTIM, "losses": {"itc": 1, "itm": 1}}},
        "report": {"cards": 0},
        "resources": {"executor": "local"},
    }


@pytest.fixture
def load(tmp_path):
    def make(content):
        path = tmp_path / "p.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_pipeline(path)

    return make


def test_it_is_planned_run_continued_and_reported(sections, load):
    pipeline = load(sections)
    assert [stage.label for stage in plan_pipeline(pipeline).stages] == ["round-1/pretrain", "round-1/finetune", "report"]
    result = run_pipeline(pipeline)
    output = Path(sections["output"])
    weights = output / "round-1" / "models" / "filter" / "model.safetensors"
    assert "trained, without a pool" in str(result)
    assert (output / "report.html").is_file()
    before = weights.stat().st_mtime_ns
    run_pipeline(pipeline)
    assert weights.stat().st_mtime_ns == before
    assert all(stage.done for stage in plan_pipeline(pipeline).stages)
    assert verify(pipeline, rows=4, seed=0, progress=SilentProgress()).differences == []

    del sections["pretrain"]
    sections["output"] += "-2"
    sections["finetune"] |= {"start": str(output / "round-1" / "models" / "pretrained")}
    sections["finetune"]["captioner"] = {**OPTIM, "losses": {"lm": 1}}
    del sections["finetune"]["filter"]
    run_pipeline(load(sections))
    assert (Path(sections["output"]) / "round-1" / "models" / "captioner" / "model.safetensors").is_file()


def test_verify_looks_at_its_models_and_retry_says_that_it_has_no_pool(sections, load):
    pipeline, output = load(sections), Path(sections["output"])
    record(pipeline, make_plan(pipeline, []))
    index.save(str(output), [])
    weights = output / "round-1" / "models" / "filter" / "model.safetensors"

    def make():
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"weights")

    Steps(str(output)).run("round-1/finetune", "key", [str(weights.relative_to(output))], make)
    found = verify(pipeline, rows=4, seed=0, progress=SilentProgress())
    assert (found.differences, found.files, found.rows) == ([], 1, 0)
    weights.write_bytes(b"others")
    (difference,) = verify(pipeline, rows=4, seed=0, progress=SilentProgress()).differences
    assert difference.advice == f"capfilt run {output}/config.yaml --from round-1/finetune"
    with pytest.raises(RunStateError, match="expected a run with a pool, found one that only trains"):
        retry_rows(pipeline, Again("download_failed"), progress=SilentProgress())
    with pytest.raises(RunStateError, match="expected a run with a pool, found one that only trains"):
        retry_quarantined(pipeline, progress=SilentProgress())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pretrain": None}, "builds on `pretrain` or on `finetune.start`"),
        ({"pretrain": None, "finetune": None}, "no training either"),
        ({"rounds": 2}, "rounds: expected 1"),
        ({"miniweb": {"pictures": 5}}, "expected a `read` section"),
    ],
)
def test_what_does_not_make_a_training_is_refused(sections, load, changes, told):
    with pytest.raises(ConfigError, match=told):
        load({**sections, **changes})


def test_without_read_web_pairs_come_from_shards(sections, load):
    sections["pretrain"]["web"] = None
    with pytest.raises(ConfigError, match=r"pretrain\.web: expected shards"):
        load(sections)


@pytest.mark.parametrize("name", ["pretrain_med_base", "finetune_captioner", "finetune_filter"])
def test_the_bundled_recipes_are_pipelines(name):
    assert load_pipeline(Path(__file__).parents[2] / "pipelines" / f"{name}.yaml").read is None
