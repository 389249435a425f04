"""Sections `pretrain` and `finetune`: the models that a round makes."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section, Share, operational
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
    batch_size: Positive  # global, over all workers
    lr: float = Field(gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Schedule = Cosine()
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Share, Share] = (0.9, 0.98)
    clip_norm: float | None = Field(default=None, gt=0)
    dtype: Dtype = "float32"
    checkpoint_every_steps: int = operational(default=1000, ge=1)
    threads: Positive | None = None  # CPU sums, and so weights, depend on it; null: what torch takes


class PretrainConfig(OptimConfig):
    architecture: str  # file name in models/, or a path
    mix: Mix
    human: str
    image_px: Positive | None = None  # null: the architecture's own
    vocabulary: str | None = None  # WordPiece file; null trains one on the run's first texts
    init: Initial = Initial()


class FinetuneConfig(Section):
    human: str
    image_px: Positive | None = None
    captioner: OptimConfig
    filter: OptimConfig
