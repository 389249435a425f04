"""What a run will do, before it does anything: chunks, stages, columns, resources and fingerprint.

Pure: works on a config and an index that are already in memory; opens no file and knows no executor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from capfilt.config.load import fold, result_settings
from capfilt.config.pipeline import Pipeline
from capfilt.config.read import ReadConfig
from capfilt.errors import ConfigError, InputError
from capfilt.identity import chunk_id, fingerprint

POOL_STAGES = ("read", "download", "screen")
ROUND_STAGES = ("caption", "filter", "dedup", "select", "write", "pretrain", "finetune", "evaluate")
STAGES = (*POOL_STAGES, *ROUND_STAGES, "report")
FIRST_TRAINING = ("pretrain", "finetune", "evaluate")

# The last stage of each job: `caption` cannot be redone or stopped at without `filter`, as one file holds the work of both.
UNITS = {"read": "pool", "download": "pool", "screen": "pool", "pool": "pool", "caption": "candidates", "filter": "candidates"}


@dataclass(frozen=True)
class InputFile:
    """One file of `read.paths`. `etag` changes when the content does and is the same on every machine."""

    path: str
    size: int
    etag: str
    row_groups: tuple[int, ...]  # rows in each; of a text file, tar or folder, in each stretch that is read at once
    offsets: tuple[int, ...] = ()  # first byte of each stretch of a text file or tar (uncompressed), then the last one's end
    names: tuple[str, ...] = ()  # of the pictures of a folder
    columns: tuple[tuple[str, str], ...] = ()  # ours, theirs
    problem: str | None = None  # why less than the whole file is read

    @property
    def rows(self) -> int:
        return sum(self.row_groups)


@dataclass(frozen=True)
class Chunk:
    """A slice of one row group: the unit of work, of commit, of retry and of resume."""

    chunk_id: str
    path: str
    etag: str
    row_group: int
    start: int  # row inside the row group
    rows: int
    first_row: int  # row inside the file
    offset: int = 0  # of a text file or tar: first byte of the stretch `start` counts from, before compression
    size: int = 0  # and its bytes
    names: tuple[str, ...] = ()  # of a folder: the pictures

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))  # a list after JSON


@dataclass(frozen=True)
class PlannedStage:
    """One stage of one round. `round` is None for the pool and the report; `done` of `total` files are there."""

    round: int | None
    name: str
    unit: str  # stages of one unit are done, kept and redone together
    reads: str
    writes: str
    total: int = 1
    done: int = 0

    @property
    def label(self) -> str:
        return self.name if self.round is None else f"round-{self.round}/{self.name}"

    @property
    def unit_label(self) -> str:
        return self.unit if self.round is None else f"round-{self.round}/{self.unit}"


@dataclass(frozen=True)
class Plan:
    """A run as it will happen. `settings` are the result-affecting ones, `fingerprint` stands for them."""

    name: str
    output: str
    fingerprint: str
    settings: dict[str, Any]
    files: tuple[InputFile, ...]
    chunks: tuple[Chunk, ...]
    stages: tuple[PlannedStage, ...]
    columns: dict[str, str]
    resources: dict[str, Any]
    notes: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> int:
        return sum(chunk.rows for chunk in self.chunks)

    def to_json(self) -> dict[str, Any]:
        """What plan.json holds: everything but the chunks, of which there may be millions; the index gives them again."""
        return {
            "name": self.name,
            "output": self.output,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "rows": self.rows,
            "chunks": len(self.chunks),
            "files": [{"path": file.path, "rows": file.rows, "size": file.size, "etag": file.etag} for file in self.files],
            "stages": [asdict(stage) for stage in self.stages],
            "columns": self.columns,
            "resources": self.resources,
        }


def make_plan(
    pipeline: Pipeline,
    index: Sequence[InputFile],
    *,
    limit: int | None = None,
    done: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of `pipeline` on the files of `index`.

    Args:
        limit: First rows only.
        done: Files that are already there, by `unit_label`; a missing unit has none.

    Raises:
        InputError: If the index has no row.
    """
    chunks = () if pipeline.read is None else make_chunks(pipeline.read, index, limit, pipeline.output)
    if pipeline.read is not None and not chunks:
        found = f"{len(index)} file(s) with 0 rows" if index else "no file"
        raise InputError(
            f"read.paths: expected rows, found {found} at {', '.join(pipeline.read.paths)}. Name files with at least one row"
        )
    settings = run_settings(pipeline, limit)
    return Plan(
        name=pipeline.name,
        output=pipeline.output,
        fingerprint=fingerprint(settings),
        settings=settings,
        files=tuple(index),
        chunks=chunks,
        stages=plan_stages(pipeline, len(chunks), done or {}),
        columns={} if pipeline.read is None else _columns(pipeline.read, index),
        resources=pipeline.resources.model_dump(mode="json"),
        notes=tuple(notes),
    )


def _columns(read: ReadConfig, index: Sequence[InputFile]) -> dict[str, str]:
    """Ours -> theirs, all names of theirs where the files differ."""
    found: dict[str, dict[str, None]] = {}
    for file in index:
        for ours, theirs in file.columns:
            found.setdefault(ours, {})[theirs] = None
    return {ours: ", ".join(theirs) for ours, theirs in found.items()} | {f"upstream.{name}": name for name in read.keep_columns}


def make_chunks(read: ReadConfig, index: Sequence[InputFile], limit: int | None = None, output: str = "") -> tuple[Chunk, ...]:
    """Every row of the index in exactly one chunk, in order; no chunk crosses a row group, so that reading one is cheap.

    `limit` keeps the first rows; a chunk that is cut by it has an id of its own. Ids do not hold the name of `output`, the run
    folder, where the small web's files lie.
    """
    chunks: list[Chunk] = []
    left = sum(file.rows for file in index) if limit is None else limit
    for file in index:
        first = 0
        for group, group_rows in enumerate(file.row_groups):
            for start in range(0, group_rows, read.rows_per_chunk):
                rows = min(read.rows_per_chunk, group_rows - start, left)
                if rows <= 0:
                    return tuple(chunks)
                name = chunk_id(fold(file.path, output), file.etag, first + start, rows)
                at, size = (file.offsets[group], file.offsets[group + 1] - file.offsets[group]) if file.offsets else (0, 0)
                pictures = file.names[first + start : first + start + rows]
                chunks.append(Chunk(name, file.path, file.etag, group, start, rows, first + start, at, size, pictures))
                left -= rows
            first += group_rows
    return tuple(chunks)


def run_settings(pipeline: Pipeline, limit: int | None) -> dict[str, Any]:
    """What decides the results of the whole run, by section."""
    return {**result_settings(pipeline), "limit": limit}


def plan_stages(pipeline: Pipeline, chunks: int, done: Mapping[str, int]) -> tuple[PlannedStage, ...]:
    """The stages that will run, in order: the straight line of docs/architecture.md with this config's sections."""

    def stage(number: int | None, name: str, reads: str, writes: str, total: int = 1) -> PlannedStage:
        planned = PlannedStage(number, name, UNITS.get(name, name), reads, writes, total)
        return PlannedStage(number, name, planned.unit, reads, writes, total, min(total, done.get(planned.unit_label, 0)))

    stages: list[PlannedStage] = []
    if pipeline.read is not None:
        fetched = "url" if pipeline.read.kind == "url_list" else "image (of the input; nothing is fetched)"
        stages += [stage(None, "read", "chunks of the input", "pool/", chunks), stage(None, "download", fetched, "pool/", chunks)]
        stages.append(stage(None, "screen", "image, text", "pool/", chunks))
    first = 0 if pipeline.has_round_0 else 1
    for number in range(first, pipeline.rounds + 1):
        folder = f"round-{number}"
        web = f"{folder}/dataset" if number and pipeline.write is not None else "pool"
        if any(one.web is not None for one in pipeline.pretrainings):
            web = "pretrain.web"
        has = {name: getattr(pipeline, name) is not None and (number > 0 or name in FIRST_TRAINING) for name in ROUND_STAGES}
        table = {
            "caption": ("pool: image", f"{folder}/candidates/", chunks),
            "filter": ("pool: image; captions", f"{folder}/candidates/", chunks),
            "dedup": ("candidates: embedding, sha256", f"{folder}/dedup/", 1),
            "select": ("candidates: captions; dedup", f"{folder}/selection/", 1),
            "write": ("selection; pool: image", f"{folder}/dataset/", 1),
            "pretrain": (f"{web}; human pairs", f"{folder}/models/{_listed([one.model for one in pipeline.pretrainings])}", 1),
            "finetune": (f"{_start(pipeline)}; human pairs", f"{folder}/models/{_made(pipeline)}", 1),
            "evaluate": ("models; held-out pairs", f"{folder}/metrics.json", 1),
        }
        stages += [stage(number, name, *table[name]) for name in ROUND_STAGES if has[name]]
    stages.append(stage(None, "report", "everything above", "report.html"))
    return tuple(stages)


def _start(pipeline: Pipeline) -> str:
    names = [one.model for one in pipeline.pretrainings]
    starts = [] if pipeline.finetune is None else [pipeline.start_of(role) for role in pipeline.finetune.models]
    return ", ".join(dict.fromkeys(f"models/{start}" if start in names else start for start in starts))


def _made(pipeline: Pipeline) -> str:
    return _listed(pipeline.finetune.models if pipeline.finetune is not None else ())


def _listed(models: Sequence[str]) -> str:
    return "{" + ",".join(models) + "}" if len(models) > 1 else "".join(models)


def find_stage(stages: Sequence[PlannedStage], name: str, option: str) -> int:
    """Index of the stage that `--from` or `--until` names, as `STAGE` or `round-N/STAGE`.

    Without a round, `--from` means the first that has the stage, `--until` the first after round 0.

    Raises:
        ConfigError: If this run has no such stage; lists those it has.
    """
    wanted = {"pool": "read", "candidates": "caption"}.get(name.rpartition("/")[2], name.rpartition("/")[2])
    prefix = name.rpartition("/")[0]
    hits = [i for i, s in enumerate(stages) if s.name == wanted and (not prefix or s.label == f"{prefix}/{wanted}")]
    if not hits:
        have = ", ".join(dict.fromkeys(stage.label for stage in stages))
        raise ConfigError(f"{option} {name}: expected a stage of this run, found none of that name. Choose one of: {have}")
    if option == "--until":
        return next((i for i in hits if stages[i].round != 0), hits[0]) if not prefix else hits[0]
    return hits[0]


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves that differ between two JSON trees, as (dotted path, old, new); None stands for a missing one."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [*old, *(name for name in new if name not in old)]
        return [d for name in names for d in differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))]
    return [] if old == new else [(path, old, new)]


def first_touched(stages: Sequence[PlannedStage], paths: Sequence[str]) -> int:
    """Index of the first stage whose results depend on the setting at one of `paths` (dotted, as `differences` gives them)."""
    sections = {path.partition(".")[0] for path in paths}
    if "rounds" in sections:
        sections.discard("rounds")  # more or fewer rounds leave those that are done as they are
        if not sections:
            return len(stages) - 1
    return next((i for i, stage in enumerate(stages) if stage.name in sections), 0) if sections <= set(STAGES) else 0
