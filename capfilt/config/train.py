"""Sections `pretrain` and `finetune`: the models that a round makes.

Which losses a network has, and what it may begin with, is said where networks are known (`capfilt.training`).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section, Share, operational
from capfilt.config.read import Img2dataset, ParquetImages, WebDataset
from capfilt.config.round import Dtype


class Mix(Section):
    """Share of pairs per batch. `web` is the raw pool in round 0 and the round's data set afterwards."""

    web: Share  # of pairs that came from the web
    human: Share  # of `human`
    labelled: Share = 0  # of `labelled`

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.web + self.human + self.labelled - 1) > 1e-6:
            labelled = f" + labelled {self.labelled}" if self.labelled else ""
            raise ValueError(f"mix must add up to 1; found web {self.web} + human {self.human}{labelled}")
        return self


class Labelled(Section):
    """Pictures with labels; the name of a label is a text like any other (CoCa section 3.2)."""

    path: str  # Parquet with `image` and labels
    column: str = "label"  # texts, lists of texts, or whole numbers that `names` turns into texts
    names: list[str] | None = None  # of label 0, 1, 2 …


class Losses(Section):
    """Weight of each loss by name; a missing one is not computed, one that the network does not have is refused."""

    itc: float | None = Field(default=None, ge=0)  # contrast: MED, CoCa, BLIP-2
    itm: float | None = Field(default=None, ge=0)  # matching: MED, BLIP-2, SOHO
    lm: float | None = Field(default=None, ge=0)  # the next word (BLIP-2: ITG): MED, CoCa, BLIP-2, ClipCap
    mlm: float | None = Field(default=None, ge=0)  # hidden words: SOHO
    mvm: float | None = Field(default=None, ge=0)  # hidden codes of the visual dictionary: SOHO

    def weights(self) -> dict[str, float]:
        return {name: value for name, value in self.model_dump().items() if value}


class Cosine(Section):
    """After the warm-up the rate falls along half a cosine, to 0 after the last step."""

    kind: Literal["cosine"] = "cosine"


class Exponential(Section):
    """BLIP's: the rate is multiplied by `decay_per_epoch` after each epoch, down to `min_lr`."""

    kind: Literal["exponential"]
    decay_per_epoch: float = Field(gt=0, le=1)  # factor; BLIP 0.9
    min_lr: float = Field(default=1e-6, ge=0)  # the rate falls no lower


Schedule = Annotated[Cosine | Exponential, Field(discriminator="kind")]


class Initial(Section):
    """What a new network begins with; null is from scratch."""

    image: str | None = None
    """MED: a transformers ViT, as BLIP does. SOHO: a ResNet's state dict (.pth). BLIP-2 and ClipCap need one and leave it as it
    is: the MED (ClipCap: or CLIP) that looks at the pictures, by the `name` of an earlier section or as a folder. BLIP-2 with a
    language model: the BLIP-2 of stage 1, whose Q-Former goes on."""
    text: str | None = None
    """MED and BLIP-2's stage 1: a transformers BERT. ClipCap: a GPT-2. BLIP-2 with a language model: that, in place of the
    architecture's; or the `name` of an earlier section with a ClipCap, whose GPT-2 is taken and left as it is."""


ItmNegatives = Literal["random", "near"]


class Matching(Section):
    """How a SOHO learns ITM; the other families draw by their own similarity."""

    pairs: Literal["exchanged", "both"] = "exchanged"
    """exchanged (published code): half of the pictures get another text, and words and codes are hidden and learnt there too.
    both: words and codes are learnt of own texts alone, and in a second pass each picture has its whole text and a wrong one."""
    negatives: ItmNegatives = "random"
    """Wrong texts. random (published code): another picture's. near: another picture's, the likelier the more words it shares
    with the own one, rare words counting more."""


def not_its_matching(where: str, family: str) -> str:
    """What to say where another family than SOHO is given a `matching`."""
    return f"{where}.matching: expected null for a {family}, found a SOHO's. Leave it out"


class OptimConfig(Section):
    """What pre-training and fine-tuning have in common."""

    losses: Losses  # what is learnt, and with which weights
    steps: Positive  # of the optimiser; the training ends after them
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
    matching: Matching | None = None  # of a SOHO; null: as its authors' code
    lr: float = Field(gt=0)  # the optimiser's (AdamW's) greatest learning rate, reached after the warm-up
    warmup_steps: int = Field(default=0, ge=0)  # steps in which the rate grows linearly up to `lr`
    schedule: Schedule = Cosine()  # how the rate falls afterwards
    weight_decay: float = Field(default=0.05, ge=0)  # AdamW's, on all parameters that learn, as in BLIP
    betas: tuple[Share, Share] = (0.9, 0.98)  # AdamW's decay of its running means of gradient and squared gradient
    clip_norm: float | None = Field(default=None, gt=0)  # greatest norm of the gradient of all parameters; null: no limit
    dtype: Dtype = "float32"  # bfloat16: torch's autocast, for GPUs; weights and optimiser stay float32
    checkpoint_every_steps: int = operational(default=1000, ge=1)  # a stopped training goes on from its last checkpoint
    threads: Positive | None = None  # CPU sums, and so weights, depend on it; null: what torch takes

    @model_validator(mode="after")
    def _matching_has_its_loss(self) -> Self:
        if self.matching is not None and not self.losses.itm:
            raise ValueError("matching: expected the loss itm, which it is about, found none in losses. Add it, or leave it out")
        return self


class CapfiltShards(Section):
    """Parquet shards that `write` made; every kept text of a row is one of its texts."""

    kind: Literal["capfilt"]
    paths: list[str] = Field(min_length=1)  # fsspec paths; globs and braces are expanded


Shards = Annotated[CapfiltShards | ParquetImages | WebDataset | Img2dataset, Field(discriminator="kind")]


NAME = r"^[a-z][a-z0-9_-]*$"
ROLES: tuple[Literal["captioner", "filter"], ...] = ("captioner", "filter")


class PretrainConfig(OptimConfig):
    """A new network; with several sections, each is one of its own and may build on those before it (`init`)."""

    name: str | None = Field(default=None, pattern=NAME)
    """Of the model's folder, for `init`, `finetune` and `evaluate` to speak of; a single section's is `pretrained`."""
    architecture: str  # file name in models/, or a path
    mix: Mix  # of which pairs a batch is made
    human: str | None = None  # Parquet with `image` and `captions`; needed unless mix.human is 0
    labelled: Labelled | None = None  # needed unless mix.labelled is 0
    web: Shards | None = None  # shards that are there already; null: the round's pool or data set
    web_fraction_per_epoch: float = Field(default=1, gt=0, le=1)  # of the web pairs, another part each epoch (BLIP's LAION)
    shuffle_rows: Positive = 8192  # of `web`: rows held in memory at once and shuffled, besides as many that are read ahead
    interleave: Positive = 8  # of `web`: chunks read side by side; a multiple of the workers lets each read its own shards only
    image_px: Positive | None = None  # side of the square pictures; null: the architecture's own
    vocabulary: str | None = None
    """WordPiece file (`vocab.txt`). null: that of `init.text`; without that, with `text.vocabulary: trained` in the architecture,
    one is trained on the run's first texts; with `bert` (as in `med_vit_b16`) null is then refused."""
    init: Initial = Initial()  # models or published weights to begin with, in place of random weights

    @model_validator(mode="after")
    def _human_pairs_are_there(self) -> Self:
        if self.human is None and self.mix.human > 0:
            raise ValueError(
                f"human: expected the file of human pairs for mix.human {self.mix.human}, found null. Name it, or mix 0"
            )
        if self.labelled is None and self.mix.labelled > 0:
            raise ValueError(
                f"labelled: expected labelled pictures for mix.labelled {self.mix.labelled}, found null. Name them, or mix 0"
            )
        return self

    @property
    def model(self) -> str:
        """The name of its model."""
        return self.name or "pretrained"

    @property
    def training(self) -> str:
        """The name of its training."""
        return self.name or "pretrain"


class Embeddings(Section):
    """Stored image embeddings and their texts in place of pictures (ClipCap): no picture is decoded."""

    paths: list[str] = Field(min_length=1)  # Parquet files, or folders of them such as a round's candidates
    embedding: str = "embedding"  # column of lists of numbers
    text: str = "captions"  # column of texts, of lists of texts, or of a candidates table's captions
    min_itm: Share = 0.5  # of candidates: texts that the first filter gives less, or that a rule rejected, are left out
    where: dict[str, str | int | float | bool] = {}
    """Column -> value: only rows that have it, such as those of one source. A name that is no column is looked for among the
    carried ones (`read.keep_columns`), which candidates hold in `upstream`."""
    image: str | None = None  # the model that made them, whose image encoder the captioner then uses; null: the start's own


class FinetuneModel(OptimConfig):
    """How a filter is trained."""

    start: str | None = None  # a model to begin with: the name of a `pretrain` section or a folder; null: `finetune.start`


class FinetuneCaptioner(FinetuneModel):
    """How a captioner is trained: the next word of human texts."""

    embeddings: Embeddings | None = None  # a ClipCap learns from these; null: from `finetune.human`


class FinetuneConfig(Section):
    """The captioner and the filter of the next round, each from a pre-trained model and on human pairs."""

    human: str | None = None  # Parquet with `image` and `captions`; needed unless stored embeddings are all that is learnt from
    image_px: Positive | None = None  # side of the square pictures, another only for a MED (BLIP: 384); null: the start's own
    start: str | None = None
    """A model to begin with: the name of a `pretrain` section, a folder, a .pth file or a hub name. null: what the last section
    of `pretrain` made."""
    trunk: Literal["separate", "shared"] = "separate"
    """shared: the image encoder stays, bit by bit, what it is at the start, in captioner and filter alike; only their text side
    learns. `caption` and `filter` then run as one (`resources.fuse`), and each picture is encoded once."""
    captioner: FinetuneCaptioner | None = None  # how the captioner is trained; null: none is made
    filter: FinetuneModel | None = None  # how the filter is trained; null: none is made

    @model_validator(mode="after")
    def _makes_something(self) -> Self:
        if self.captioner is None and self.filter is None:
            raise ValueError("finetune makes a captioner, a filter or both; found neither. Add `captioner` or `filter`")
        is_stored = self.captioner is not None and self.captioner.embeddings is not None
        if self.human is None and (self.filter is not None or not is_stored):
            raise ValueError("human: expected the file of human pairs to learn from, found null. Name it")
        return self

    @property
    def models(self) -> tuple[Literal["captioner", "filter"], ...]:
        """What is made."""
        return tuple(name for name in ROLES if getattr(self, name) is not None)

    def start_of(self, role: Literal["captioner", "filter"]) -> str | None:
        """Name or folder; None: the last that `pretrain` made."""
        own = self.captioner if role == "captioner" else self.filter
        return (own.start if own is not None else None) or self.start
