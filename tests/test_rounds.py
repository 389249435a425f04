"""The outer loop with made-up pictures, models and training: what runs, what is skipped, what is refused, what continues."""

import io
import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from capfilt import captioners, filters
from capfilt.config.load import load_text
from capfilt.config.pipeline import Pipeline
from capfilt.errors import CapfiltError, FailureBudgetError, InputError, Interrupted, LeaseError, RunStateError
from capfilt.rounds import RunResult, run_pipeline
from capfilt.run import files
from capfilt.run.lease import Lease
from capfilt.run.local_executor import LocalExecutor
from capfilt.run.planning import plan_pipeline
from capfilt.run.progress import SilentProgress
from capfilt.schema import COLUMNS

YAML = """
version: 1
name: tiny
output: {output}
rounds: 2
read: {{paths: ["{web}"], rows_per_chunk: 4}}
caption: {{captioner: {{kind: trained}}}}
filter: {{filter: {{kind: trained}}}}
dedup: {{min_cosine: 0.99999}}
select: {{min_itm: 0.1}}
write: {{formats: [parquet], rows_per_shard: 5}}
pretrain:
  {{architecture: med_tiny, mix: {{web: 0.8, human: 0.2}}, human: "{human}", losses: {{lm: 1}}, steps: 1, batch_size: 1, lr: 0.1}}
finetune:
  human: "{human}"
  captioner: {{losses: {{lm: 1}}, steps: 1, batch_size: 1, lr: 0.1}}
  filter: {{losses: {{itm: 1}}, steps: 1, batch_size: 1, lr: 0.1}}
evaluate: {{heldout: "{human}"}}
resources: {{executor: local}}
"""
A_ROUND = ["dedup", "select", "write", "pretrain", "captioner", "filter", "evaluate"]


@dataclass
class World:
    """A run that can be begun; `did` tells what was really done, in order."""

    folder: Path
    did: list[str] = field(default_factory=list)
    dead_hosts: bool = False
    interrupt_at: str | None = None
    models: list[str | None] = field(default_factory=list)

    @property
    def output(self) -> Path:
        return self.folder / "run"

    def pipeline(self, change: Callable[[dict[str, Any]], None] = lambda tree: None, limit: int | None = None) -> Pipeline:
        text = YAML.format(output=self.output, web=self.folder / "web-*.parquet", human=self.folder / "human.parquet")
        tree = yaml.safe_load(text)
        change(tree)
        return load_text(yaml.safe_dump(tree), limit=limit)

    def run(self, change: Callable[[dict[str, Any]], None] = lambda tree: None, **options: Any) -> RunResult:
        self.did.clear()
        pipeline = self.pipeline(change, options.get("limit"))
        return run_pipeline(pipeline, source=Path("tiny.yaml"), progress=SilentProgress(), **options)

    def do(self, what: str) -> None:
        self.did.append(what)
        if what == self.interrupt_at:
            raise KeyboardInterrupt

    def add_input(self, name: str, rows: int) -> None:
        urls = [f"http://x/{name}/{i}" for i in range(rows)]
        pq.write_table(pa.table({"url": urls, "text": [f"text {url}" for url in urls]}), self.folder / f"web-{name}.parquet")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Eleven rows, every fifth of them a failed download."""
    world = World(tmp_path)
    world.add_input("a", 11)
    (tmp_path / "human.parquet").write_bytes(b"pairs")

    def put_in(module: str, **names: Any) -> None:
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**names))

    put_in("torch", set_num_threads=lambda threads: None, get_num_threads=lambda: 2)
    put_in("capfilt.stages.download", DownloadStage=lambda *args, **kwargs: FakeDownload(world))
    monkeypatch.setattr(captioners, "build_captioner", lambda config, *, trained, device: FakeCaptioner(world, trained))
    monkeypatch.setattr(filters, "build_filter", lambda config, *, trained, device: FakeFilter(world, trained))

    def trainer(name: str) -> Callable[..., None]:
        def fake(config: Any, *args: Any, out: Path, on_step: Any, web: Any = None, **kwargs: Any) -> None:
            world.do(f"{name} {web.kind}" if web else name)
            on_step(types.SimpleNamespace(step=1, loss=0.5))
            for file in ("model.safetensors", "architecture.yaml", "tokenizer.json"):
                files.put(str(out / file), f"{out.parent.parent.name} {name}".encode())

        return fake

    put_in(
        "capfilt.training",
        WebPairs=lambda files, kind: types.SimpleNamespace(files=files, kind=kind),
        pretrain=trainer("pretrain"),
        finetune_captioner=trainer("captioner"),
        finetune_filter=trainer("filter"),
    )

    def evaluate(config: Any, *, round_number: int, candidates: tuple[str, ...], **kwargs: Any) -> dict[str, Any]:
        world.do("evaluate")
        return {"round": round_number, "primary": {"name": "p", "value": round_number / 10}, "chunks": len(candidates)}

    put_in("capfilt.evaluation", evaluate=evaluate)

    def write_report(run: Path) -> Path:
        world.do("report")
        (run / "report.html").write_text("<html>")
        return run / "report.html"

    put_in("capfilt.report", write_report=write_report)
    for name in ("dedup", "select", "write"):
        module = __import__(f"capfilt.stages.{name}", fromlist=[name])
        monkeypatch.setattr(module, name, told(world, name, getattr(module, name)))
    return world


def told(world: World, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        world.do(name)
        return real(*args, **kwargs)

    return wrapped


class FakeDownload:
    name = "download"
    reads = ("row_id", "url")
    writes = ("status", "error", "image", "width", "height", "original_width", "original_height", "sha256", "consent")

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, table: pa.Table) -> pa.Table:
        if table.num_rows:
            self.world.do("download")
        rows = []
        for url in table["url"].to_pylist():
            number = int(url.rpartition("/")[2])
            if self.world.dead_hosts or number % 5 == 4:
                rows.append({"status": "download_failed", "error": "http_404"})
                continue
            out = io.BytesIO()
            Image.new("RGB", (16, 16), (20 * number % 256, 7 * number % 256, len(url))).save(out, "JPEG")
            size = {"width": 16, "height": 16, "original_width": 16, "original_height": 16}
            rows.append({"status": "ok", "image": out.getvalue(), "sha256": url, "consent": "none", **size})
        types_ = {column.name: column.type for column in COLUMNS}
        for name in self.writes:
            values = pa.array([row.get(name) for row in rows], types_[name])
            at = table.schema.get_field_index(name)
            table = table.append_column(name, values) if at < 0 else table.set_column(at, name, values)
        return table


class FakeCaptioner:
    name = "fake"

    def __init__(self, world: World, trained: str | None) -> None:
        self.world = world
        world.models.append(trained)

    def caption(self, images: list[Any], *, seeds: list[list[int]]) -> list[list[Any]]:
        self.world.do("caption")
        return [[types.SimpleNamespace(text=f"seed {seed}", log_prob=-1.0) for seed in row] for row in seeds]


class FakeFilter:
    name, dim = "fake", 2

    def __init__(self, world: World, trained: str | None) -> None:
        world.models.append(trained)

    def score(self, images: list[Any], texts: list[list[str]]) -> Any:
        import numpy as np

        angle = np.array([image.getpixel((0, 0))[0] / 100 for image in images])
        embedding = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        return types.SimpleNamespace(itm=[[0.9 for _ in row] for row in texts], itc=None, embedding=embedding)


def deep_set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: dict[str, Any]) -> None:
        for name in path[:-1]:
            tree = tree.setdefault(name, {})
        tree[path[-1]] = value

    return change


def result_files(output: Path) -> dict[str, bytes]:
    kept = (path for path in sorted(output.rglob("*")) if path.is_file() and path.relative_to(output).parts[0] != "events")
    return {str(path.relative_to(output)): path.read_bytes() for path in kept}


def test_the_line_runs_in_order_and_ends_with_the_report(world: World) -> None:
    result = world.run()
    training = ["captioner", "filter", "evaluate"]
    expected = ["download"] * 3 + ["pretrain pool", *training]
    for _ in (1, 2):
        expected += ["caption"] * 3 + ["dedup", "select", "write", "pretrain dataset", *training]
    assert world.did == [*expected, "report"]
    assert result.counts == {"ok": 9, "download_failed": 2}
    assert result.primary == {0: 0.0, 1: 0.1, 2: 0.2}
    assert "9 of 11 rows" in str(result)
    assert not (world.output / "lease.json").exists()


def test_each_round_uses_the_models_the_round_before_fine_tuned(world: World) -> None:
    world.run()
    used = [Path(model or "").relative_to(world.output).as_posix() for model in dict.fromkeys(world.models)]
    assert used == [f"round-{number}/models/{role}" for number in (0, 1) for role in ("captioner", "filter")]


def test_a_published_checkpoint_gives_way_to_the_fine_tuned_model_in_round_2(world: World) -> None:
    def published(tree: dict[str, Any]) -> None:
        tree["caption"]["captioner"] = {"kind": "med", "checkpoint": "a/captioner"}
        tree["filter"]["filter"] = {"kind": "med", "checkpoint": "a/filter"}

    world.run(published)
    assert not (world.output / "round-0").exists()
    used = [model and Path(model).relative_to(world.output).as_posix() for model in dict.fromkeys(world.models)]
    assert used == [None, "round-1/models/captioner", "round-1/models/filter"]


def test_the_same_command_again_does_nothing_but_the_report(world: World) -> None:
    world.run()
    before = result_files(world.output)
    world.run()
    assert world.did == ["report"]
    assert result_files(world.output) == before


@pytest.mark.parametrize("at", ["download", "pretrain pool", "caption", "select", "filter", "evaluate"])
def test_after_ctrl_c_the_same_command_ends_with_the_same_files(world: World, at: str, tmp_path: Path) -> None:
    world.interrupt_at = at
    with pytest.raises(Interrupted, match=r"Continue with: capfilt run tiny.yaml"):
        world.run()
    world.interrupt_at = None
    world.run()
    interrupted = result_files(world.output)
    world.run(fresh=True)
    assert result_files(world.output) == interrupted


def test_until_stops_after_the_stage_and_the_next_command_goes_on(world: World) -> None:
    assert world.run(until="select").report is None
    assert world.did[-1] == "select"
    world.run(until="round-2/caption")
    assert world.did[:2] == ["write", "pretrain dataset"]
    assert world.did[-1] == "caption"
    world.run(until="pool")
    assert world.did == []


def test_from_redoes_the_stage_and_what_follows_only(world: World) -> None:
    world.run()
    before = result_files(world.output)
    world.run(start_from="round-2/select")
    assert world.did == ["select", "write", "pretrain dataset", "captioner", "filter", "evaluate", "report"]
    assert result_files(world.output) == before
    world.run(start_from="round-1/filter")
    assert world.did[:4] == ["caption"] * 3 + ["dedup"]
    assert result_files(world.output) == before


def test_a_changed_setting_is_refused_with_the_difference_and_the_way_out(world: World) -> None:
    world.run()
    change = deep_set("select", "min_itm", value=0.2)
    with pytest.raises(RunStateError, match=r"select.min_itm: 0.1 -> 0.2\n.*--from round-1/select.*--fresh"):
        world.run(change)
    with pytest.raises(RunStateError, match=r"select.min_itm"):
        world.run(change, start_from="round-2/select")
    world.run(change, start_from="round-1/select")
    assert world.did[0] == "select"
    world.run(change)
    assert world.did == ["report"]


def test_operational_settings_and_more_rounds_may_change(world: World) -> None:
    world.run(deep_set("rounds", value=1))
    world.run(deep_set("resources", "retries_per_chunk", value=0))
    assert world.did[0] == "caption"
    assert "download" not in world.did
    assert (world.output / "round-2" / "metrics.json").exists()


def test_an_appended_input_file_adds_its_chunks_and_redoes_what_depends_on_them(world: World) -> None:
    world.run()
    world.add_input("b", 4)
    result = world.run()
    assert world.did.count("download") == 1
    assert world.did[1] == "pretrain pool"
    assert sum(result.counts.values()) == 15


def test_a_changed_input_file_is_refused(world: World) -> None:
    world.run(until="pool")
    world.add_input("a", 12)
    with pytest.raises(RunStateError, match="as the run first saw it"):
        world.run()
    assert world.run(start_from="download", until="pool").counts["ok"] == 10


def test_fresh_leaves_files_alone_that_no_run_made(world: World) -> None:
    world.output.mkdir()
    (world.output / "thesis.tex").write_text("years of work")
    with pytest.raises(RunStateError, match=r"found files but no config.yaml"):
        world.run(fresh=True)
    world.run(until="pool")
    world.run(fresh=True, until="pool")
    assert world.did == ["download"] * 3
    assert (world.output / "thesis.tex").read_text() == "years of work"


def test_a_limit_takes_the_first_rows_in_a_folder_of_its_own(world: World) -> None:
    result = world.run(limit=6, until="pool")
    assert result.output == f"{world.output}-limit-6"
    assert sum(result.counts.values()) == 6
    assert not world.output.exists()


def test_a_web_of_dead_hosts_is_a_clear_end(world: World) -> None:
    world.dead_hosts = True
    with pytest.raises(
        FailureBudgetError, match=r"expected at least one usable picture, found 11 download_failed.*--from download"
    ):
        world.run()
    world.dead_hosts = False
    assert world.run(start_from="download", until="pool").counts["ok"] == 9


def test_an_empty_input_is_a_clear_end(world: World) -> None:
    world.add_input("a", 0)
    with pytest.raises(InputError, match="expected rows"):
        world.run()


def test_nothing_kept_is_a_clear_end_before_training(world: World) -> None:
    with pytest.raises(CapfiltError, match=r"found that `select` kept none.*--from round-1/select"):
        world.run(deep_set("select", "min_itm", value=0.95))
    assert world.did[-1] == "write"


def test_a_model_that_changed_is_noticed(world: World) -> None:
    world.run(until="round-1/filter")
    (world.output / "round-0" / "models" / "captioner" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RunStateError, match=r"--from round-1/caption"):
        world.run()


def test_an_executor_is_started_early_only_where_chunks_are_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(LocalExecutor, "start", lambda self: started.append(1))
    world.run(until="round-2/caption")
    assert started == [1]
    world.run()
    world.run(start_from="round-2/pretrain")
    assert started == [1]
    world.run(start_from="round-2/caption")
    assert started == [1, 1]


def test_one_driver_per_run(world: World) -> None:
    with Lease(str(world.output)), pytest.raises(LeaseError):
        world.run()


def test_the_plan_tells_what_is_there_and_what_would_be_redone(world: World) -> None:
    before = plan_pipeline(world.pipeline())
    assert {stage.done for stage in before.stages} == {0}
    assert not world.output.exists()
    world.run(until="select")
    done = {stage.label: (stage.done, stage.total) for stage in plan_pipeline(world.pipeline()).stages}
    assert done["download"] == (3, 3)
    assert done["round-1/select"] == (1, 1)
    assert done["round-1/write"] == (0, 1)
    notes = plan_pipeline(world.pipeline(deep_set("select", "min_itm", value=0.2))).notes
    assert notes[0] == "select.min_itm: 0.1 -> 0.2"
    assert "--from round-1/select" in notes[1]


def test_the_run_folder_says_what_was_run(world: World) -> None:
    world.run(until="select")
    assert yaml.safe_load((world.output / "config.yaml").read_text())["select"]["min_itm"] == 0.1
    plan = json.loads((world.output / "plan.json").read_text())
    assert plan["settings"]["select"]["min_itm"] == 0.1
    assert "pyarrow" in plan["versions"]
    phases = [line["phase"] for line in files.lines(str(world.output), "phases")]
    assert phases[:2] == ["index", "pool"]
    assert "round-1/select" in phases
