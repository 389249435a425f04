"""Sections `report` and `resources`: nothing here changes a result."""

from typing import Literal

from pydantic import Field

from capfilt.config.base import Positive, Section, Share, operational


class ReportConfig(Section):
    cards: int = operational(default=60, ge=0)
    open: bool = operational(default=False)


class RayConfig(Section):
    address: str = "local"  # `local` starts Ray here; `auto` finds a cluster
    logical_cpus: Positive = 4


class StageResources(Section):
    actors: Positive = 1
    gpus: float = Field(default=0, ge=0)
    threads: Positive = 1


class TrainResources(Section):
    # that train together, each with `gpus`: processes of this machine with `executor: local`, Ray Train's with `ray`
    workers: Positive = 1
    gpus: float = Field(default=0, ge=0)


class FailureRates(Section):
    """Share of a stage's healthy rows that may fail before the run ends with exit 3; null never ends it."""

    download: Share | None = None
    caption: Share | None = 0.02
    filter: Share | None = 0.02


class Resources(Section):
    executor: Literal["ray", "local"] = "ray"
    ray: RayConfig = RayConfig()
    download: StageResources = StageResources(threads=64)
    caption: StageResources = StageResources()
    filter: StageResources = StageResources()
    # where captioner and filter have equal image encoders: both in one actor, with caption's resources, each picture encoded once
    fuse: bool = True
    train: TrainResources = TrainResources()
    retries_per_chunk: int = Field(default=3, ge=0)
    chunks_per_wave: Positive = 512
    max_failure_rate: FailureRates = FailureRates()
