"""Sections `pretrain` and `finetune`: the models that a round makes."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section, Share, operational
from capfilt.config.read import Img2dataset, ParquetImages, WebDataset
from capfilt.config.round import Dtype


class Mix(Section):
    """Share of pairs per batch. `web` is the raw pool in round 0 and the round's data set afterwards."""

    web: Share
    human: Share

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.web + self.human - 1) > 1e-6:
            raise ValueError(f"mix must add up to 1; found web {self.web} + human {self.human}")
        return self


class Losses(Section):
    """Weight of each loss by name; a missing one is not computed."""

    itc: float | None = Field(default=None, ge=0)
    itm: float | None = Field(default=None, ge=0)
    lm: float | None = Field(default=None, ge=0)

    def weights(self) -> dict[str, float]:
        return {name: value for name, value in self.model_dump().items() if value}


class Cosine(Section):
    kind: Literal["cosine"] = "cosine"


class Exponential(Section):
    """BLIP's: the rate is multiplied by `decay_per_epoch` after each epoch, down to `min_lr`."""

    kind: Literal["exponential"]
    decay_per_epoch: float = Field(gt=0, le=1)
    min_lr: float = Field(default=1e-6, ge=0)


Schedule = Annotated[Cosine | Exponential, Field(discriminator="kind")]


class Initial(Section):
    """A transformers ViT and BERT folder, as BLIP does; null is from scratch."""

    image: str | None = None
    text: str | None = None


class OptimConfig(Section):
    """What pre-training and fine-tuning have in common."""

    losses: Losses
    steps: Positive
    batch_size: Positive  # pairs per step of the optimiser, over all workers and accumulated parts
    accumulate_steps: Positive = 1
    """Parts, one after another, that a batch is computed in; it must divide `batch_size` (workers x parts must). LM learns the
    same. ITC and ITM see the part's pairs (and the queue) only: a smaller batch to them, and the queue moves once per part."""
    checkpoint_activations: bool = operational(default=False)
    """Compute each block's activations again in the backward pass instead of keeping them: less memory, about a third more time,
    the same weights."""
    augment: Literal["none", "blip"] = "none"
    """blip: a random crop (at least 0.2 of the area in `pretrain`, 0.5 in `finetune`), mirroring, and two of ten further changes.
    none: the whole picture; a mirrored one belies a text that says left."""
    negatives: Literal["local", "global"] = "local"
    """With several workers, whom a pair is contrasted with and its ITM negatives come from. local: its own worker's pairs and the
    queue (BLIP's pre-training): another number of workers, another result. global: all workers' pairs, as if there were one."""
    lr: float = Field(gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Schedule = Cosine()
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Share, Share] = (0.9, 0.98)
    clip_norm: float | None = Field(default=None, gt=0)
    dtype: Dtype = "float32"
    checkpoint_every_steps: int = operational(default=1000, ge=1)
    threads: Positive | None = None  # CPU sums, and so weights, depend on it; null: what torch takes


class CapfiltShards(Section):
    """Parquet shards that `write` made; every kept text of a row is one of its texts."""

    kind: Literal["capfilt"]
    paths: list[str] = Field(min_length=1)  # fsspec paths; globs and braces are expanded


Shards = Annotated[CapfiltShards | ParquetImages | WebDataset | Img2dataset, Field(discriminator="kind")]


class PretrainConfig(OptimConfig):
    architecture: str  # file name in models/, or a path
    mix: Mix
    human: str | None = None  # Parquet with `image` and `captions`; needed unless mix.human is 0
    web: Shards | None = None  # shards that are there already; null: the round's pool or data set
    web_fraction_per_epoch: float = Field(default=1, gt=0, le=1)  # of the web pairs, another part each epoch (BLIP's LAION)
    shuffle_rows: Positive = 8192  # of `web`: rows held in memory at once and shuffled, besides as many that are read ahead
    interleave: Positive = 8  # of `web`: chunks read side by side; a multiple of the workers lets each read its own shards only
    image_px: Positive | None = None  # null: the architecture's own
    vocabulary: str | None = None  # WordPiece file; null trains one on the run's first texts
    init: Initial = Initial()

    @model_validator(mode="after")
    def _human_pairs_are_there(self) -> Self:
        if self.human is None and self.mix.human > 0:
            raise ValueError(
                f"human: expected the file of human pairs for mix.human {self.mix.human}, found null. Name it, or mix 0"
            )
        return self


class FinetuneConfig(Section):
    human: str
    image_px: Positive | None = None
    start: str | None = None  # a model to begin with: folder, .pth, hub name; null: what `pretrain` made
    trunk: Literal["separate", "shared"] = "separate"
    """shared: the image encoder stays, bit by bit, what it is at the start, in captioner and filter alike; only their text side
    learns. `caption` and `filter` then run as one (`resources.fuse`), and each picture is encoded once."""
    captioner: OptimConfig | None = None
    filter: OptimConfig | None = None

    @model_validator(mode="after")
    def _makes_something(self) -> Self:
        if self.captioner is None and self.filter is None:
            raise ValueError("finetune makes a captioner, a filter or both; found neither. Add `captioner` or `filter`")
        return self

    @property
    def models(self) -> tuple[Literal["captioner", "filter"], ...]:
        """What is made."""
        names: tuple[Literal["captioner", "filter"], ...] = ("captioner", "filter")
        return tuple(name for name in names if getattr(self, name) is not None)
