"""What travels to a worker, and how a worker builds its stages from it: one `match` on the stage's name.

The only place where runner and stages meet; both executors use it. Imports what a stage computes with when it is built.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, assert_never

from capfilt.config.download import DownloadConfig
from capfilt.config.pipeline import Pipeline
from capfilt.errors import ContractError
from capfilt.run.again import Again
from capfilt.run.files import join
from capfilt.run.scratch import local_folder
from capfilt.stages.base import Guarded, RowStage

if TYPE_CHECKING:
    from capfilt.captioners import Captioner
    from capfilt.config.round import CaptionConfig, FilterConfig
    from capfilt.filters import Filter

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
            from capfilt.stages.caption import CaptionStage

            captioner, section = _captioner(job)
            return Guarded(CaptionStage(section, captioner=captioner, seed=pipeline.seed, round_number=job.round_number))
        case "filter":
            from capfilt.stages.filter import FilterStage

            scorer, scoring = _scorer(job, pipeline.resources.filter.gpus)
            return Guarded(FilterStage(scoring, scorer=scorer))
        case "caption+filter":
            return _fused(job)
        case _ as unreachable:
            assert_never(unreachable)


def _captioner(job: Job) -> "tuple[Captioner, CaptionConfig]":
    from capfilt.captioners import build_captioner

    config = job.pipeline.caption
    if config is None:
        raise ContractError("stage `caption` was asked for in a run without a `caption` section")
    with _local(job.captioner) as trained:
        return build_captioner(config, trained=trained, device=_device(job.pipeline.resources.caption.gpus)), config


def _scorer(job: Job, gpus: float) -> "tuple[Filter, FilterConfig]":
    from capfilt.filters import build_filter

    config = job.pipeline.filter
    if config is None:
        raise ContractError("stage `filter` was asked for in a run without a `filter` section")
    with _local(job.scorer) as trained:
        return build_filter(config, trained=trained, device=_device(gpus)), config


def _fused(job: Job) -> RowStage:
    """Both stages on the captioner's image encoder and resources; `run.pairing` has seen that the filter's is the same."""
    from capfilt.captioners.med import MedCaptioner
    from capfilt.filters.med import MedFilter
    from capfilt.stages.caption import CaptionStage
    from capfilt.stages.filter import FilterStage
    from capfilt.stages.fused import Fused
    from capfilt.stages.pictures import Remembered

    (captioner, section), (scorer, scoring) = _captioner(job), _scorer(job, job.pipeline.resources.caption.gpus)
    if not isinstance(captioner, MedCaptioner) or not isinstance(scorer, MedFilter):
        raise ContractError(f"expected a MED captioner and filter to run as one, found {captioner.name} and {scorer.name}")
    captioner.network.share_trunk(scorer.network)
    decode = Remembered(section.batch_size)
    seed, number = job.pipeline.seed, job.round_number
    caption = CaptionStage(section, captioner=captioner, seed=seed, round_number=number, decode=decode)
    score = FilterStage(scoring, scorer=scorer, decode=decode)
    return Guarded(Fused(Guarded(caption), Guarded(score), batch_size=section.batch_size))


def _own_share(pipeline: Pipeline) -> DownloadConfig:
    """The section as one download actor keeps it: `per_host` is a promise to the hosts, whatever the number of actors."""
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
