"""The outer loop with made-up pictures, models and training: what runs, what is skipped, what is refused, what continues."""

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import capfilt.modeling.find  # noqa: F401  (before a test puts a false torch in its place)
from capfilt import captioners, filters, rounds
from capfilt.config.load import load_text
from capfilt.config.pipeline import Pipeline
from capfilt.errors import (
    CapfiltError,
    ConfigError,
    FailureBudgetError,
    InputError,
    Interrupted,
    LeaseError,
    OutputError,
    RunStateError,
    Terminated,
)
from capfilt.rounds import RunResult, run_pipeline
from capfilt.run import apart, files, pairing
from capfilt.run.lease import Lease
from capfilt.run.local_executor import LocalExecutor
from capfilt.run.planning import plan_pipeline
from capfilt.run.progress import SilentProgress
from capfilt.run.scratch import tree
from capfilt.run.signals import orderly
from capfilt.run.steps import Steps
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
    pq.write_table(pa.table({"key": ["k"], "image": [b""], "captions": [["a text"]]}), tmp_path / "human.parquet")

    def put_in(module: str, **names: Any) -> None:
        monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**names))

    put_in("torch", set_num_threads=lambda threads: None, get_num_threads=lambda: 2)
    put_in("capfilt.stages.download", DownloadStage=lambda *args, **kwargs: FakeDownload(world))
    monkeypatch.setattr(captioners, "build_captioner", lambda config, *, trained, device: FakeCaptioner(world, trained))
    monkeypatch.setattr(filters, "build_filter", lambda config, *, trained, device: FakeFilter(world, trained))
    monkeypatch.setattr(pairing, "compare", lambda *_: ("separate", "separate"))
    monkeypatch.setattr(apart, "_elsewhere", apart._counted)  # another process would not know these fakes

    def trainer(name: str) -> Callable[..., None]:
        def fake(config: Any, *args: Any, out: Path, on_step: Any, web: Any = None, **kwargs: Any) -> None:
            world.do(f"{name} {web.kind}" if web else name)
            on_step(types.SimpleNamespace(step=1, loss=0.5))
            for file in ("model.safetensors", "architecture.yaml", "tokenizer.json"):
                files.put(str(out / file), f"kind: med  # {out.parent.parent.name} {name}".encode())

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

    def write_report(run: Path, cards: int) -> Path:
        world.do("report")
        (run / "report.html").write_text("<html>")
        return run / "report.html"

    def write_remote_report(address: str, cards: int) -> str:
        world.do("report")
        files.put(files.join(address, "report.html"), b"<html>")
        return files.join(address, "report.html")

    put_in("capfilt.report", write_report=write_report, write_remote_report=write_remote_report)
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


def test_damage_that_is_met_on_the_way_ends_the_run_and_may_be_left_out_when_it_goes_on(world: World) -> None:
    def skip(tree: dict[str, Any]) -> None:
        tree["read"]["on_bad_file"] = "skip"

    world.add_input("b", 8)
    path = world.folder / "web-b.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"web-b\.parquet: expected a readable Parquet file.*read\.on_bad_file: skip") as ended:
        world.run()
    assert type(ended.value) is InputError, "which ends with exit code 2"
    kept = {path.name for path in (world.output / "pool").glob("chunk-*")}
    assert len(kept) == 3
    world.run(skip)
    assert "download" not in world.did, "what was committed stays"
    continued = result_files(world.output)
    world.run(skip, fresh=True)
    assert result_files(world.output) == continued


def test_the_command_that_continues_holds_what_was_set(world: World) -> None:
    world.interrupt_at = "caption"
    with pytest.raises(Interrupted, match=r"Continue with: capfilt run tiny\.yaml --set name=other$"):
        world.run(overrides=["name=other"])


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


def names_files(world: World) -> Callable[[dict[str, Any]], None]:
    """A run of one round that names an evaluation file and shards."""
    for name in ("eval", "shard"):
        renew(world, name, "a text")

    def change(tree: dict[str, Any]) -> None:
        tree["rounds"] = 1
        tree["dedup"]["decontaminate"] = [str(world.folder / "eval.parquet")]
        tree["evaluate"]["heldout"] = str(world.folder / "eval.parquet")
        tree["pretrain"]["web"] = {"kind": "capfilt", "paths": [str(world.folder / "shard*.parquet")]}

    return change


def renew(world: World, name: str, *texts: str) -> None:
    rows = [{"key": text, "image": b"", "captions": [text], "all_captions": [text]} for text in texts]
    pq.write_table(pa.Table.from_pylist(rows), world.folder / f"{name}.parquet")


def test_files_that_a_step_read_are_noticed_where_they_hold_something_else(world: World) -> None:
    change = names_files(world)
    world.run(change)
    world.run(change)
    assert world.did == ["report"]
    renew(world, "eval", "a text", "another")
    world.run(change)
    assert world.did == ["evaluate", "dedup", "select", "write", "evaluate", "report"]
    renew(world, "shard", "another")
    world.run(change)
    assert [name for name in world.did if "caption" not in name] == [
        *("pretrain pool", "filter", "evaluate"),
        *("pretrain dataset", "filter", "evaluate", "report"),
    ]
    continued = result_files(world.output)
    (world.folder / "eval.parquet").unlink()
    world.run(change)
    assert world.did == ["report"], "what is done needs the file no more"
    renew(world, "eval", "a text", "another")
    world.run(change, fresh=True)
    assert result_files(world.output) == continued


def test_a_run_of_a_version_that_did_not_look_at_them_stays_done_until_they_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, run_step = names_files(world), Steps.run
    with monkeypatch.context() as before:
        before.setattr(Steps, "key_with", lambda steps, label, key, inputs: key)
        before.setattr(Steps, "run", lambda *args, inputs=(), **options: run_step(*args, **options))
        world.run(change)
    world.run(change)
    assert world.did == ["report"]
    renew(world, "eval", "another")
    world.run(change)
    assert world.did == ["evaluate", "dedup", "select", "write", "evaluate", "report"]


def test_an_appended_input_file_adds_its_chunks_and_redoes_what_depends_on_them(world: World) -> None:
    world.run()
    world.add_input("b", 4)
    result = world.run()
    assert world.did.count("download") == 1
    assert world.did[1] == "pretrain pool"
    assert sum(result.counts.values()) == 15


def test_models_that_the_run_trained_anew_are_no_changed_models(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round 0 learns from the pool: rows that came later change its models, and so every text of round 1."""
    training = sys.modules["capfilt.training"]
    finetune = training.finetune_captioner

    def learns(config: Any, *args: Any, out: Path, **kwargs: Any) -> None:
        finetune(config, *args, out=out, **kwargs)
        pool = files.listing(str(world.output / "pool"), "chunk-")
        files.put(str(out / "model.safetensors"), f"learnt from {len(pool)} chunks".encode())

    monkeypatch.setattr(training, "finetune_captioner", learns)
    world.run()
    world.add_input("b", 4)
    world.run()
    assert world.did[:2] == ["download", "pretrain pool"]
    assert world.did.count("caption") == 2 * 4
    continued = result_files(world.output)
    world.run(fresh=True)
    assert {name: data for name, data in result_files(world.output).items() if name in continued} == continued


def test_a_changed_input_file_is_refused(world: World) -> None:
    world.run(until="pool")
    world.add_input("a", 12)
    with pytest.raises(RunStateError, match="as the run first saw it"):
        world.run()
    assert world.run(start_from="download", until="pool").counts["ok"] == 10


def test_fresh_leaves_files_alone_that_no_run_made(world: World) -> None:
    world.output.mkdir()
    (world.output / "thesis.tex").write_text("years of work")
    for fresh in (True, False):
        with pytest.raises(ConfigError, match=r"found other things in `.*`: thesis\.tex\. Name a folder of its own"):
            world.run(fresh=fresh)
    assert [path.name for path in world.output.iterdir()] == ["thesis.tex"]
    (world.output / "thesis.tex").unlink()
    world.run(until="pool")
    (world.output / "thesis.tex").write_text("years of work")
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
        FailureBudgetError,
        match=r"expected at least one usable picture, found 11 download_failed; most often: http_404 11\..*--from download",
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


# ── killed at any moment ────────────────────────────────────────────────────────────────────────────────────


Tree = dict[str, bytes | None]


@dataclass
class Kills:
    """The run folder as a SIGKILL would leave it before each operation that changes what lies on the disk, each state once.

    Before one operation is after the one before, so that both sides of every rename, removal and new folder are there.
    """

    output: Path
    states: dict[int, Tree] = field(default_factory=dict)
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir"):
            monkeypatch.setattr(os, name, self.seen(getattr(os, name)))

    def seen(self, real: Callable[..., None]) -> Callable[..., None]:
        def operation(*args: Any, **kwargs: Any) -> None:
            with self.one_at_a_time:
                self.take()
            real(*args, **kwargs)

        return operation

    def take(self) -> None:
        tree: Tree = {}
        for folder, _, names in os.walk(self.output):
            inner = Path(folder).relative_to(self.output)
            tree[str(inner)] = None
            for name in names:
                try:
                    tree[str(inner / name)] = (Path(folder) / name).read_bytes()
                except FileNotFoundError:  # another thread was quicker
                    continue
        told = {name: data for name, data in tree.items() if not name.startswith(("events", "lease.json"))}
        self.states.setdefault(hash(tuple(sorted(told.items(), key=str))), tree)

    def restore(self, tree: Tree, dead: int) -> None:
        """The folder as it was, its driver gone."""
        shutil.rmtree(self.output, ignore_errors=True)
        for name, data in tree.items():
            if data is None:
                (self.output / name).mkdir(parents=True)
        for name, data in tree.items():
            if data is not None:
                (self.output / name).write_bytes(data)
        lease = self.output / "lease.json"
        if lease.exists() and lease.read_bytes():
            lease.write_text(json.dumps({**json.loads(lease.read_text()), "pid": dead}))


def halved(tree: Tree) -> Tree:
    """What was being written is half there."""
    unfinished = (".part", ".tmp/")
    return {
        name: data[: len(data) // 2] if data and any(sign in name for sign in unfinished) else data for name, data in tree.items()
    }


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-S", "-c", ""])
    done.wait()
    return done.pid


@pytest.mark.parametrize("how", ["whole", "halved"])
def test_killed_before_or_after_any_write_the_same_command_ends_with_the_same_files(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    kills = Kills(world.output)
    with monkeypatch.context() as patch:
        kills.watch(patch)
        world.run(small)
    calm = result_files(world.output)
    dead = dead_process()
    states = list(kills.states.values())
    assert len(states) > 60
    if how == "halved":  # every third: what is half there is looked at by nobody, as the other half of this test shows
        states = [half for state in states if (half := halved(state)) != state][::3]
    for number, state in enumerate(states):
        kills.restore(state, dead)
        world.run(small)
        assert result_files(world.output) == calm, f"killed at state {number} of {len(states)}: {sorted(state)}"


def small(tree: dict[str, Any]) -> None:
    """Every stage once, on few files."""
    tree["rounds"] = 1
    tree["read"]["rows_per_chunk"] = 8


def test_a_disk_that_is_full_at_any_write_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.run(small)
    calm = result_files(world.output)
    sync, full_at, is_whole = os.fsync, 1, False
    while not is_whole:
        shutil.rmtree(world.output)
        left = full_at

        def no_room(handle: int) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_room)
            try:
                world.run(small)
                is_whole = True
            except OutputError as told:
                message = str(told)
        assert is_whole or "make room, then run the same command again" in message
        world.run(small)
        assert result_files(world.output) == calm, f"full at write {full_at}"
        full_at += 9
    assert full_at > 30


def test_an_output_that_cannot_be_written_is_refused_before_any_work(world: World) -> None:
    world.output.write_bytes(b"a file, not a folder")
    with pytest.raises(OutputError, match="expected a folder"):
        world.run()
    assert world.did == []


def test_sigterm_ends_the_run_as_ctrl_c_does_with_its_own_exit_code(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(what: str) -> None:
        if what == "select":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(world, "do", terminated)
    with (
        orderly(),
        pytest.raises(Terminated, match=r"terminated; what was done is kept. Continue with: capfilt run tiny.yaml") as told,
    ):
        world.run()
    assert told.value.exit_code == 143
    assert not (world.output / "lease.json").exists()


def test_a_driver_whose_lease_was_taken_over_stops(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "Lease", lambda folder: Lease(folder, beat_s=0.02))

    def taken(what: str) -> None:
        if what == "select":
            files.put_json(str(world.output / "lease.json"), {"token": "another's"})
            time.sleep(10)

    monkeypatch.setattr(world, "do", taken)
    with pytest.raises(LeaseError, match="found another driver's"):
        world.run()


@pytest.mark.parametrize("waves", [1, 2])
def test_the_size_of_a_wave_changes_no_file(world: World, waves: int) -> None:
    world.run(until="round-1/write")
    calm = result_files(world.output)
    world.run(deep_set("resources", "chunks_per_wave", value=waves), until="round-1/write", fresh=True)
    told = result_files(world.output)
    assert {name for name in {*calm, *told} if calm.get(name) != told.get(name)} <= {"config.yaml", "plan.json"}


# ── a run folder on an object store ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def address() -> Iterator[str]:
    folder = f"memory:///capfilt-rounds-{uuid4().hex}/run"
    yield folder
    files.remove(folder)


def stored(address: str) -> dict[str, bytes | None]:
    return {path[len(address) + 1 :]: files.get(path) for path in tree(address) if "/events/" not in path}


def test_on_an_object_store_the_same_files_appear(world: World, address: str) -> None:
    world.run()
    local = result_files(world.output)
    result = world.run(deep_set("output", value=address))
    there = stored(address)
    assert {name for name in {*local, *there} if local.get(name) != there.get(name)} == {"config.yaml", "plan.json"}
    assert result.report == f"{address}/report.html"
    world.run(deep_set("output", value=address))
    assert world.did == ["report"]


@pytest.mark.parametrize("at", ["download", "pretrain pool", "caption", "dedup", "write", "filter", "evaluate", "report"])
def test_on_an_object_store_a_run_is_continued(world: World, address: str, at: str) -> None:
    there = deep_set("output", value=address)
    world.interrupt_at = at
    with pytest.raises(Interrupted):
        world.run(there)
    world.interrupt_at = None
    world.run(there)
    interrupted = stored(address)
    world.run(there, fresh=True)
    assert stored(address) == interrupted
    assert "lease.json" not in interrupted
