"""Sections `report` and `resources`: nothing here changes a result."""

from typing import Literal

from pydantic import Field

from capfilt.config.base import Positive, Section, Share, operational


class ReportConfig(Section):
    """One HTML file that shows what the run did."""

    cards: int = operational(default=60, ge=0)  # pictures shown with their texts and scores; 0: none
    open: bool = operational(default=False)  # open the page when the run has ended


class RayConfig(Section):
    """Which Ray."""

    address: str = "local"  # `local` starts Ray here; `auto` joins the cluster this machine belongs to
    logical_cpus: Positive = 4  # slots that a `local` Ray gives its actors; at least 4, also on two cores: fewer can starve them


class StageResources(Section):
    """What one stage runs on."""

    actors: Positive = 1
    """Processes side by side, with `executor: ray`; `local` does without. Of `download` at most `download.per_host`, where URLs
    are fetched."""
    gpus: float = Field(default=0, ge=0)  # of each actor; 0.5 puts two on one GPU, 0: on the CPU. `download` needs none
    threads: Positive = 1
    """`download`: URLs asked at once for each chunk at work; an actor has four of them, two where `rows_per_chunk` is above
    1,024. `caption`, `filter`: CPU threads of the model."""


class TrainResources(Section):
    """What training runs on; `gpus` above 0 also puts `evaluate` on a GPU."""

    workers: Positive = 1
    """That train together, each with `gpus`: processes of this machine with `executor: local`, Ray Train's with `ray`."""
    gpus: float = Field(default=0, ge=0)  # of each worker; 0: on the CPU


class FailureRates(Section):
    """Share of a stage's healthy rows that may fail before the run ends with exit 3."""

    download: Share | None = None  # null: failed downloads end nothing, quarantined chunks with more than 2 % of the rows do
    caption: Share | None = 0.02  # null: no failure ends the run
    filter: Share | None = 0.02  # null: no failure ends the run


class Resources(Section):
    """Where the run works, and on how much of the machine. All of it may change between two starts."""

    executor: Literal["ray", "local"] = "ray"
    """ray: actors, on this machine or a cluster. local: this process alone, without Ray, for small runs and debugging. Both give
    the same bytes."""
    ray: RayConfig = RayConfig()  # of `executor: ray`
    download: StageResources = StageResources(threads=64)  # raise actors and threads where the network is idle
    caption: StageResources = StageResources()  # raise actors and gpus where GPUs are idle
    filter: StageResources = StageResources()  # as `caption`; plays no part where both run as one (`fuse`)
    fuse: bool = True
    """Where captioner and filter have equal image encoders, both run in one actor, with caption's resources, and each picture is
    encoded once. false: apart."""
    train: TrainResources = TrainResources()  # of `pretrain`, `finetune` and `evaluate`
    retries_per_chunk: int = Field(default=3, ge=0)  # further tries of a chunk that failed as a whole; then it is quarantined
    chunks_per_wave: Positive = 512  # chunks given to the executor at once; the next wave begins when all of them are done
    max_failure_rate: FailureRates = FailureRates()  # how much may fail before the run ends
