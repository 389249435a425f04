"""Tiny runs whose pictures, captioner, filter and web are made up: local, no network, no torch."""

import io
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from capfilt.config.load import load_pipeline, load_text
from capfilt.config.pipeline import Pipeline
from capfilt.identity import row_id, uid_of
from capfilt.plan import Chunk
from capfilt.rounds import RunResult, run_pipeline
from capfilt.run.again import Again
from capfilt.run.commit import commit
from capfilt.run.progress import SilentProgress
from capfilt.run.retry import Retried, retry_quarantined, retry_rows
from capfilt.schema import COLUMNS

FAKES = '''
import os
import numpy as np
from capfilt.captioners.base import Caption
from capfilt.filters.base import Scores

def shade(image):
    return image.getpixel((0, 0))[0]

class Captioner:
    """Says the picture's shade and its seed; `boom`, `die`, `hog` and `bug` name shades it cannot stand."""
    name = "fake-captioner"
    def __init__(self, boom=-1, die=-1, hog=-1, bug=-1):
        self.boom, self.die, self.hog, self.bug = boom, die, hog, bug
    def caption(self, images, *, seeds):
        shades = [shade(image) for image in images]
        if self.boom in shades:
            raise RuntimeError("boom")
        if self.die in shades:
            os.kill(os.getpid(), 9)  # as the kernel does where memory is out
        if self.hog in shades:
            np.ones(1 << 32, dtype=np.uint8)  # 4 GiB
        if self.bug in shades:
            from capfilt.errors import ContractError
            raise ContractError("a bug")
        return [[Caption(f"shade {s} {seed % 1000}", -float(s)) for seed in row] for s, row in zip(shades, seeds)]

class Filter:
    name, dim = "fake-filter", 2
    def score(self, images, texts):
        embedding = np.array([[shade(image), 1.0] for image in images], dtype=np.float32).reshape(-1, 2)
        embedding /= np.maximum(np.linalg.norm(embedding, axis=1, keepdims=True), 1e-9)
        return Scores([[len(text) / 100 for text in row] for row in texts], None, embedding)
'''

YAML = """
version: 1
name: tiny
output: {output}
read: {{paths: [web.parquet], rows_per_chunk: 4}}
caption: {{captioner: {{kind: custom, target: "capfilt_fakes:Captioner", options: {options}}}, batch_size: 2}}
filter: {{filter: {{kind: custom, target: "capfilt_fakes:Filter"}}, batch_size: 2}}
select: {{}}
resources: {{executor: local, retries_per_chunk: 2, ray: {{logical_cpus: 4}}, {resources}}}
"""


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an importable module `capfilt_fakes`."""
    folder = tmp_path_factory.mktemp("fakes")
    (folder / "capfilt_fakes.py").write_text(FAKES)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("capfilt_fakes", None)


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes need no torch, whose import costs seconds."""
    fake = types.SimpleNamespace(set_num_threads=lambda threads: None, get_num_threads=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", fake)


PipelineOf = Callable[..., Pipeline]


@pytest.fixture(scope="session")
def pipeline_of(fakes: Path) -> PipelineOf:
    def make(output: Path, *, options: str = "{}", resources: str = "chunks_per_wave: 512") -> Pipeline:
        return load_text(YAML.format(output=output, options=options, resources=resources))

    return make


def jpeg(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(out, "JPEG", quality=95)
    return out.getvalue()


def pool_table(chunk_id: str, shades: list[int | None]) -> pa.Table:
    """A pool chunk; None is a row whose download failed."""
    caption = {"origin": "web", "captioner": None, "k": None, "log_prob": None, "rule": None, "error": None, "scores": []}
    values: dict[str, list[Any]] = {
        "row_id": [row_id(chunk_id, i) for i in range(len(shades))],
        "uid": [uid_of(f"u{chunk_id}{i}", "t") for i in range(len(shades))],
        "url": [f"http://x/{i}" for i in range(len(shades))],
        "text": [f"text {i}" for i in range(len(shades))],
        "status": ["download_failed" if shade is None else "ok" for shade in shades],
        "error": ["http_404" if shade is None else None for shade in shades],
        "image": [None if shade is None else jpeg(shade) for shade in shades],
        "captions": [None if shade is None else [{"text": f"text {i}", **caption}] for i, shade in enumerate(shades)],
    }
    columns = {c.name: pa.array(values.get(c.name, [None] * len(shades)), c.type) for c in COLUMNS}
    return pa.table(columns)


@pytest.fixture(name="pool_table", scope="session")
def _pool_table() -> Callable[[str, list[int | None]], pa.Table]:
    return pool_table


@pytest.fixture(scope="session")
def make_pool() -> Callable[[Path], list[Chunk]]:
    """Commits five chunks of four rows, the last row of each a failed download; shades 0, 10, 20, … 140."""

    def make(output: Path) -> list[Chunk]:
        chunks = []
        for number in range(5):
            name = f"{number:016x}"
            shades: list[int | None] = [*(10 * (3 * number + i) for i in range(3)), None]
            commit(pool_table(name, shades), str(output / "pool"), chunk_id=name, fingerprint="f", stage="pool")
            chunks.append(Chunk(name, "web.parquet", "e", 0, 4 * number, 4, 4 * number))
        return chunks

    return make


@pytest.fixture
def web(tmp_path: Path) -> Path:
    path = tmp_path / "web.parquet"
    pq.write_table(pa.table({"url": [f"http://x/{i}" for i in range(10)], "text": ["t"] * 10}), path, row_group_size=6)
    return path


# ── two small MEDs of random weights ─────────────────────────────────────────────────────────────────────────

MED_YAML = """
version: 1
name: tiny
output: {output}
read: {{paths: [web.parquet], rows_per_chunk: 4}}
caption: {{captioner: {{kind: med, checkpoint: {captioner}}}, batch_size: 3, captions_per_image: 2, prompt: "a ",
           decode: {{kind: nucleus, top_p: 0.9, min_length: 4, max_length: 10}}}}
filter: {{filter: {{kind: med, checkpoint: {scorer}}}, batch_size: {batch}, allow_shared_weights: {allowed}}}
resources: {{executor: local, retries_per_chunk: 0, fuse: {fuse}}}
"""


@pytest.fixture(scope="session")
def med_pipeline() -> PipelineOf:
    def make(*, fuse: str = "true", allowed: str = "false", batch: int = 3, **places: Path) -> Pipeline:
        return load_text(MED_YAML.format(fuse=fuse, allowed=allowed, batch=batch, **places))

    return make


@pytest.fixture(scope="session")
def twin(med_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A copy of the model whose parts of these names are other numbers."""
    import torch

    from capfilt.modeling.families import load_network
    from capfilt.modeling.weights import save_model

    def make(*others: str) -> Path:
        loaded = load_network(med_folder)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in loaded.model.named_parameters():
                if name.startswith(others):
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        folder = tmp_path_factory.mktemp("twin") / "run" / "models" / "filter"
        save_model(folder, loaded.model, loaded.architecture, loaded.tokenizer)
        return folder

    return make


# ── a whole run, whose web can change its mind ───────────────────────────────────────────────────────────────

WEB_YAML = """
version: 1
name: tiny
output: {output}
read: {{paths: ["{web}"], rows_per_chunk: 4}}
caption: {{captioner: {{kind: custom, target: "capfilt_fakes:Captioner", options: {{}}}}, batch_size: 2}}
filter: {{filter: {{kind: custom, target: "capfilt_fakes:Filter"}}, batch_size: 2}}
select: {{min_itm: 0}}
write: {{formats: [parquet]}}
report: {{open: false}}
resources: {{executor: local, retries_per_chunk: 1}}
"""
TIMEOUT, FOUND = ("download_failed", "timeout"), ("ok", None)


@dataclass
class Web:
    """Twelve pictures in three chunks; what each address answers now, and who was asked."""

    folder: Path
    answers: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    captioned: list[int] = field(default_factory=list)
    fails_at: int = -1

    @property
    def run_folder(self) -> Path:
        return self.folder / "run"

    @property
    def pool(self) -> list[Path]:
        return sorted((self.run_folder / "pool").glob("chunk-*.parquet"))

    def rows(self) -> list[dict[str, Any]]:
        rows = [row for path in self.pool for row in pq.read_table(path).to_pylist()]
        return sorted(rows, key=lambda row: int(row["url"].rpartition("/")[2]))

    def settings(self, *overrides: str) -> Pipeline:
        return load_pipeline(self.run_folder / "config.yaml", [*overrides, f"output={self.run_folder}"])

    def run(self, *overrides: str, **options: Any) -> RunResult:
        self.asked.clear()
        self.captioned.clear()
        pipeline = load_pipeline(self.folder / "tiny.yaml", overrides)
        return run_pipeline(pipeline, source=Path("tiny.yaml"), progress=SilentProgress(), **options)

    def retry(self, error: str | None = None, *overrides: str) -> Retried:
        self.asked.clear()
        return retry_rows(self.settings(*overrides), Again("download_failed", error), progress=SilentProgress())

    def retry_quarantined(self) -> Retried:
        self.asked.clear()
        self.captioned.clear()
        return retry_quarantined(self.settings(), progress=SilentProgress())


class FakeDownload:
    name = "download"
    reads = ("row_id", "url")
    writes = ("status", "error", "image", "width", "height", "original_width", "original_height", "sha256", "consent")

    def __init__(self, web: Web) -> None:
        self.web = web

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = []
        for url in table["url"].to_pylist():
            number = int(url.rpartition("/")[2])
            self.web.asked.append(number)
            if number == self.web.fails_at:
                raise RuntimeError("the downloader is broken")
            status, error = self.web.answers.get(number, FOUND)
            size = dict.fromkeys(("width", "height", "original_width", "original_height"), 16)
            picture = {"image": jpeg(10 * number), "sha256": f"{number:064x}", "consent": "none_stated", **size}
            rows.append({"status": status, "error": error, **(picture if status == "ok" else {})})
        kinds = {column.name: column.type for column in COLUMNS}
        for name in self.writes:
            values = pa.array([row.get(name) for row in rows], kinds[name])
            at = table.schema.get_field_index(name)
            table = table.append_column(name, values) if at < 0 else table.set_column(at, name, values)
        return table


@pytest.fixture
def live(tmp_path: Path, fakes: Path, no_torch: None, monkeypatch: pytest.MonkeyPatch) -> Web:
    web = Web(tmp_path, {1: TIMEOUT, 2: ("download_failed", "http_404"), 5: TIMEOUT, 6: ("opted_out", "robots_txt:disallow")})
    urls = [f"http://x/{number}" for number in range(12)]
    pq.write_table(pa.table({"url": urls, "text": [f"text {url}" for url in urls]}), tmp_path / "web.parquet")
    (tmp_path / "tiny.yaml").write_text(WEB_YAML.format(output=web.run_folder, web=tmp_path / "web.parquet"))
    put = types.SimpleNamespace(DownloadStage=lambda *args, **kwargs: FakeDownload(web))
    monkeypatch.setitem(sys.modules, "capfilt.stages.download", put)
    import capfilt_fakes

    caption = capfilt_fakes.Captioner.caption

    def counted(self: Any, images: Any, *, seeds: Any) -> Any:
        web.captioned += [round(capfilt_fakes.shade(image) / 10) for image in images]
        return caption(self, images, seeds=seeds)

    monkeypatch.setattr(capfilt_fakes.Captioner, "caption", counted)
    monkeypatch.setattr("capfilt.report.write_report", lambda folder, **_: f"{folder}/report.html")
    return web
