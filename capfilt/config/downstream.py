"""The file of `capfilt evaluate`: one model, and the tasks that it is asked to do.

Only settings; which family can do which task is said where networks are known (`capfilt.evaluation.tasks`).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section, operational
from capfilt.config.decoding import Beam, Decoding
from capfilt.config.train import Losses, OptimConfig


class HeadLosses(Losses):
    ce: float | None = Field(default=None, ge=0)  # cross-entropy of labels
    bce: float | None = Field(default=None, ge=0)  # binary cross-entropy of answers


class HeadOptim(OptimConfig):
    """What the training loop is told; `Fit` is what the user writes."""

    losses: HeadLosses


class Fit(Section):
    """How a head is trained, alone or with the network under it."""

    steps: Positive = 500
    batch_size: Positive = 32
    lr: float = Field(default=0.001, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    threads: Positive | None = None  # CPU sums depend on it; null: what torch takes

    def optim(self, lm_weight: float = 1) -> HeadOptim:
        return HeadOptim(**self.model_dump(), clip_norm=1.0, losses=HeadLosses(ce=1, bce=1, lm=lm_weight))


class Task(Section):
    """What all tasks have."""

    name: str | None = None  # in the result; null: its kind
    data: str  # Parquet that is measured on

    @property
    def label(self) -> str:
        return self.name or str(getattr(self, "kind", "task"))


class FittedTask(Task):
    train: str  # Parquet that is learnt from: the columns of `data`
    fit: Fit = Fit()


class RetrievalTask(Task):
    """Columns `image`, `captions`. Both ways: cosine ranks all, ITM re-ranks the best (BLIP section 5.1)."""

    kind: Literal["retrieval"]
    recall_at: list[Positive] = [1, 5, 10]
    rerank_top_k: int | None = Field(default=None, ge=0)
    """null: 16 where the network has ITC and ITM, all pairs where it has ITM alone (SOHO), none where it has no ITM (CoCa)."""


class CaptioningTask(Task):
    """Columns `image`, `captions`: CIDEr-D of generated texts."""

    kind: Literal["captioning"]
    embedding: str | None = None  # column of stored image embeddings, of which a ClipCap writes in place of pictures
    prompt: str = "a picture of "  # words every caption begins with; they are not scored
    decode: Decoding = Beam(kind="beam", beams=3, max_length=20)


class VqaTask(FittedTask):
    """Columns `image`, `question`, `answer`; the whole network is fine-tuned."""

    kind: Literal["vqa"]
    by: Literal["rank", "generate", "classify"] | None = None
    """rank: the most probable of `answers` (BLIP section 5.3). generate: open answers. classify: scores of `answers` from the
    joint representation (CoCa appendix B, SOHO section 4.3). null: rank for MED, classify for CoCa and SOHO."""
    answers: list[str] | None = None  # null: all answers of `train`
    rank_top_k: Positive = 128  # answers kept by their first token before whole answers are compared (BLIP: 128)
    decode: Decoding = Beam(kind="beam", beams=3, min_length=1, max_length=10)  # of `generate`
    lm_weight: float | None = Field(default=None, ge=0)
    """Of a CoCa's captioning loss on question and answer as one text, learnt beside the classes (CoCa appendix B). null: 1."""


class EntailmentTask(FittedTask):
    """Columns `image`, `text`, `label`: does the picture entail the text, contradict it, or neither (SNLI-VE's form)?"""

    kind: Literal["entailment"]


class TwoImagesTask(FittedTask):
    """Columns `image`, `image_2`, `text`, `label`: is the text true of the two pictures (NLVR2's form)?"""

    kind: Literal["two_images"]
    by: Literal["merge", "apart"] | None = None
    """merge: each layer looks at both pictures, MED's way (BLIP section 5.4). apart: the text is read with each, and what comes
    out is put side by side (CoCa appendix B, SOHO section 4.3). null: merge for MED, apart for CoCa and SOHO."""


class ZeroShotTask(Task):
    """Columns `image`, `label`: the label whose texts are nearest (CoCa section 4.2.2); nothing is trained."""

    kind: Literal["zero_shot"]
    column: str = "label"
    labels: list[str] | None = None  # null: those of `data`
    templates: list[str] = Field(default=["a picture of a {label}", "a {label}"], min_length=1)
    """Texts of a label; their features are averaged (as in CLIP)."""

    @model_validator(mode="after")
    def _templates_name_the_label(self) -> Self:
        wrong = [text for text in self.templates if "{label}" not in text]
        if wrong:
            raise ValueError(f"templates: expected {{label}} in each, found {wrong[0]!r}. Write it where the label goes")
        return self


class FrozenClassifierTask(FittedTask):
    """Column `image` and one or several of labels: a new attentional pooler and classifier for each, on the tokens of the frozen
    encoder, which encodes each picture once for all of them (CoCa section 3.3)."""

    kind: Literal["frozen_classifier"]
    columns: list[str] = Field(default=["label"], min_length=1)
    pooler_width: Positive | None = None  # null: that of the encoder's tokens
    pooler_heads: Positive = 4


class VideoRetrievalTask(Task):
    """Columns `frames` (list of encoded pictures), `captions`: the mean embedding of sampled frames (CoCa section 3.3)."""

    kind: Literal["video_retrieval"]
    frames: Positive = 16  # taken at equal distances
    recall_at: list[Positive] = [1, 5, 10]


class VideoClassificationTask(FittedTask):
    """Columns `frames`, `label`: a one-query pooler over the tokens of all frames of the frozen encoder (CoCa section 3.3)."""

    kind: Literal["video_classification"]
    frames: Positive = 16
    frame_positions: Literal["none", "learned"] = "none"
    """none: as the paper says it; the pooler then cannot tell a clip from its reverse. learned: a vector is added per frame."""
    column: str = "label"
    pooler_width: Positive | None = None
    pooler_heads: Positive = 4


AnyTask = Annotated[
    RetrievalTask
    | CaptioningTask
    | VqaTask
    | EntailmentTask
    | TwoImagesTask
    | ZeroShotTask
    | FrozenClassifierTask
    | VideoRetrievalTask
    | VideoClassificationTask,
    Field(discriminator="kind"),
]


class Evaluation(Section):
    model: str  # a model folder, or whatever a pipeline takes as one
    tasks: list[AnyTask] = Field(min_length=1)
    seed: int = 0  # of new heads, the order of training, and intervals
    bootstrap: Positive = 1000  # draws for the 95 % intervals
    batch_size: Positive = operational(default=64)  # pictures, or pairs of text and picture, at once where nothing is trained
    device: str = operational(default="cpu")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [task.label for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"tasks: expected different names, found {', '.join(twice)} twice. Give each a `name`")
        return self
