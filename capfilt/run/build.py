"""What travels to a worker, and how a worker builds its stages from it: one `match` on the stage's name.

The only place where runner and stages meet; both executors use it. Imports what a stage computes with when it is built.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, assert_never

from capfilt.config.download import DownloadConfig
from capfilt.config.pipeline import Pipeline
from capfilt.errors import ConfigError, ContractError
from capfilt.run.again import Again
from capfilt.run.files import join
from capfilt.run.scratch import local_folder
from capfilt.stages.base import Guarded, RowStage

if TYPE_CHECKING:
    from capfilt.stages.caption import CaptionStage
    from capfilt.stages.filter import FilterStage
    from capfilt.stages.pictures import Decode

StageName = Literal["download", "screen", "caption", "filter", "caption+filter"]


@dataclass(frozen=True)
class Job:
    """One pass over the chunks: the pool, or the candidates of a round. Small and picklable: models are named, not carried."""

    kind: Literal["pool", "candidates"]
    pipeline: Pipeline
    fingerprint: str
    round_number: int = 0
    captioner: str | None = None  # folder that `kind: trained` stands for
    scorer: str | None = None
    connect_to: dict[str, str] = field(default_factory=dict)  # host pattern -> host:port
    fused: bool = False  # caption and filter run as one, on one image encoder
    again: Again | None = None  # of committed pool chunks, the rows to try again; None where chunks are made

    @property
    def name(self) -> str:
        return "pool" if self.kind == "pool" else f"round-{self.round_number}/candidates"

    @property
    def folder(self) -> str:
        return join(self.pipeline.output, self.name)

    @property
    def pool(self) -> str:
        return join(self.pipeline.output, "pool")

    @property
    def downloads_in_flight(self) -> int:
        """Chunks one download worker has at work: a chunk must not wait for its slowest URL."""
        return 4 if self.pipeline.read is None or self.pipeline.read.rows_per_chunk <= 1024 else 2


def build_stage(name: StageName, job: Job) -> RowStage:
    """The stage as the worker runs it, its model loaded, behind the wrapper that shows it healthy rows only."""
    pipeline = job.pipeline
    match name:
        case "download":
            from capfilt.stages.download import DownloadStage

            threads = pipeline.resources.download.threads
            return Guarded(DownloadStage(_own_share(pipeline), threads=threads, connect_to=job.connect_to))
        case "screen":
            from capfilt.stages.screen import ScreenStage

            return Guarded(ScreenStage(pipeline.screen))
        case "caption":
            return Guarded(_in_turn(_caption_stages(job)))
        case "filter":
            return Guarded(_in_turn(_filter_stages(job, pipeline.resources.filter.gpus)))
        case "caption+filter":
            return _fused(job)
        case _ as unreachable:
            assert_never(unreachable)


def _in_turn(stages: Sequence[RowStage]) -> RowStage:
    from capfilt.stages.in_turn import InTurn

    return stages[0] if len(stages) == 1 else InTurn(stages)


def _caption_stages(job: Job, decode: "Decode | None" = None) -> "list[CaptionStage]":
    from capfilt.captioners import build_captioner
    from capfilt.stages.caption import CaptionStage

    pipeline = job.pipeline
    if pipeline.caption is None:
        raise ContractError("stage `caption` was asked for in a run without a `caption` section")
    options: dict[str, Any] = {"seed": pipeline.seed, "round_number": job.round_number} | ({"decode": decode} if decode else {})
    stages = []
    with _local(job.captioner) as trained:
        for section in pipeline.caption.each:
            captioner = build_captioner(section, trained=trained, device=_device(pipeline.resources.caption.gpus))
            stages.append(CaptionStage(section, captioner=captioner, called=section.captioners[0].name, **options))
    check_names("caption.captioner", [stage.called for stage in stages])
    return stages


def _filter_stages(job: Job, gpus: float, decode: "Decode | None" = None) -> "list[FilterStage]":
    """The first one's embedding is the pictures' embedding."""
    from capfilt.filters import build_filter
    from capfilt.stages.filter import FilterStage

    config = job.pipeline.filter
    if config is None:
        raise ContractError("stage `filter` was asked for in a run without a `filter` section")
    options: dict[str, Any] = {"decode": decode} if decode else {}
    stages: list[FilterStage] = []
    with _local(job.scorer) as trained:
        for section in config.each:
            scorer = build_filter(section, trained=trained, device=_device(gpus))
            stages.append(FilterStage(section, scorer=scorer, called=section.filters[0].name, embeds=not stages, **options))
    check_names("filter.filter", [stage.called for stage in stages])
    return stages


def check_names(key: str, names: Sequence[str]) -> None:
    """Raises: ConfigError: If two models of a list have one name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{key}: expected models with different names, found {twice} twice. Give one of them a `name`")


def _fused(job: Job) -> RowStage:
    """Both stages on the captioner's image encoder and resources; `run.pairing` has seen that the filter's is the same."""
    from capfilt.captioners.network import NetworkCaptioner
    from capfilt.filters.network import NetworkFilter
    from capfilt.stages.fused import Fused
    from capfilt.stages.pictures import Remembered

    assert job.pipeline.caption is not None
    size = job.pipeline.caption.batch_size
    decode = Remembered(size)
    (caption,), (score,) = _caption_stages(job, decode), _filter_stages(job, job.pipeline.resources.caption.gpus, decode)
    captioner, scorer = caption.captioner, score.scorer
    if not isinstance(captioner, NetworkCaptioner) or not isinstance(scorer, NetworkFilter):
        raise ContractError(f"expected a MED captioner and filter to run as one, found {caption.called} and {score.called}")
    captioner.network.share_trunk(scorer.network)
    return Guarded(Fused(Guarded(caption), Guarded(score), batch_size=size))


def _own_share(pipeline: Pipeline) -> DownloadConfig:
    """The section as one download actor keeps it: `per_host` holds for all actors together (run/preflight.py)."""
    resources = pipeline.resources
    actors = resources.download.actors if resources.executor == "ray" else 1
    return pipeline.download.model_copy(update={"per_host": max(1, pipeline.download.per_host // actors)})


def limit_threads(threads: int) -> None:
    """CPU threads of this process' models; before torch is imported where that is still possible."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


@contextmanager
def own_threads() -> Iterator[None]:
    """Undoes `limit_threads` at its end: the training in this process has a setting of its own."""
    import torch

    before, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if variable is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = variable


def _local(folder: str | None) -> AbstractContextManager[str | None]:
    """A model folder of this run where a model can be loaded from."""
    return nullcontext() if folder is None else local_folder(folder)


def _device(gpus: float) -> str:
    return "cuda" if gpus > 0 else "cpu"
