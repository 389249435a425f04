"""Sections `caption`, `filter`, `dedup` and `write`: one round from pool to data set (`select`: config/select.py)."""

from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, Tag, model_validator

from capfilt.config.base import ONE, ONE_OR_SEVERAL, SEVERAL, Positive, Section, operational
from capfilt.config.decoding import Decoding, Nucleus
from capfilt.errors import ConfigError
from capfilt.identity import model_name


class Model(Section):
    """A captioner or a filter."""

    name: str | None = Field(default=None, min_length=1)
    """In every table: `captions[].captioner`, `scores[].filter`. null: of its folder. Those of a list must differ."""


class TrainedModel(Model):
    """The last one this run fine-tuned for the role: round N - 1's in round N."""

    kind: Literal["trained"]


class NamedModel(Model):
    """A checkpoint of the user's own."""

    checkpoint: str  # a folder or a hub name
    scores: ClassVar[tuple[str, ...]] = ("itm", "itc")
    """What it gives as a filter."""

    @property
    def called(self) -> str:
        """Its name in tables."""
        return self.name or model_name(self.checkpoint)


class MedModel(NamedModel):
    """A MED checkpoint: a folder or a hub name."""

    kind: Literal["med"]


class CocaModel(NamedModel):
    """A CoCa: a folder that was trained here, or open_clip's with CLIP's tokenizer in it. A filter by its cosine alone."""

    kind: Literal["coca"]
    scores: ClassVar[tuple[str, ...]] = ("itc",)


class Blip2Model(NamedModel):
    """A BLIP-2: a folder that was trained here, of transformers' or LAVIS'. Its language model, if any, captions."""

    kind: Literal["blip2"]


class ClipCapModel(NamedModel):
    """A ClipCap with an image side: a folder that was trained here, or a released file beside GPT-2's tokenizer and `clip/`."""

    kind: Literal["clipcap"]


class SohoModel(NamedModel):
    """A SOHO: a folder that was trained here, or its authors' file with vocab.txt beside it. A filter by ITM alone."""

    kind: Literal["soho"]
    scores: ClassVar[tuple[str, ...]] = ("itm",)


class CustomModel(Model):
    """The escape hatch: `target: "pkg.mod:Class"`, built as Class(**options)."""

    kind: Literal["custom"]
    target: str = Field(pattern=r"^[\w.]+:\w+$")
    """`package.module:Class`, installed or in the working folder; on a Ray cluster, of every node."""
    options: dict[str, str | int | float | bool | None] = {}  # its keyword arguments

    def build(self) -> Any:
        """What `target` gives, called with `options`.

        Raises:
            ConfigError: As `imported`.
        """
        return self.imported()(**self.options)

    def imported(self, where: str = "kind: custom") -> Any:
        """What `target` names; not called yet.

        Args:
            where: The model's key, for messages.

        Raises:
            ConfigError: If it cannot be imported, or does not take `options`.
        """
        module, name = self.target.split(":")
        try:
            found = getattr(import_module(module), name)
        except Exception as error:  # whatever the module does as it is imported
            raise ConfigError(
                f"{where}.target: expected what can be imported, found {type(error).__name__}: {error} for {self.target}. "
                "Correct it, install the package, or give the command where it lies"
            ) from error
        try:
            signature(found).bind(**self.options)
        except TypeError as error:
            raise ConfigError(
                f"{where}.options: expected those of {self.target}, found {dict(self.options)}: {error}. Correct them"
            ) from None
        except ValueError:  # written in C, it does not tell
            pass
        return found


CaptionerConfig = Annotated[
    TrainedModel | MedModel | CocaModel | Blip2Model | ClipCapModel | CustomModel, Field(discriminator="kind")
]
FilterModelConfig = Annotated[
    TrainedModel | MedModel | CocaModel | Blip2Model | SohoModel | CustomModel, Field(discriminator="kind")
]
AnyModel = TrainedModel | NamedModel | CustomModel


def _plain(value: Any) -> Any:
    """A list of one is that one: the same settings, the same fingerprint."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


Captioners = Annotated[
    Annotated[CaptionerConfig, Tag(ONE)] | Annotated[list[CaptionerConfig], Field(min_length=1), Tag(SEVERAL)],
    ONE_OR_SEVERAL,
    BeforeValidator(_plain),
]
Filters = Annotated[
    Annotated[FilterModelConfig, Tag(ONE)] | Annotated[list[FilterModelConfig], Field(min_length=1), Tag(SEVERAL)],
    ONE_OR_SEVERAL,
    BeforeValidator(_plain),
]
Dtype = Literal["float32", "bfloat16"]
Pixels = Literal["exact", "fast"]


def _check_names(key: str, models: Sequence[AnyModel]) -> None:
    if sum(isinstance(model, TrainedModel) for model in models) > 1:
        raise ValueError(f"{key}: expected `kind: trained` once at most, found it twice; this run trains one. Leave one out")
    names = [model.name for model in models if model.name is not None]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{key}: expected different names, found {twice} twice. Rename one")


class CaptionConfig(Section):
    """Synthetic texts for every picture of the pool."""

    captioner: Captioners  # one model, or a list of them: each writes its own texts
    captions_per_image: Positive = 1  # of each captioner; greedy and beam give one, whatever stands here
    prompt: str = "a picture of "
    """Words that every synthetic text begins with, cut off again before it is stored; fine-tuning the captioner puts them before
    the human texts too. Change it with the captioner that was trained with another."""
    decode: Decoding = Nucleus(kind="nucleus", top_p=0.9, min_length=5, max_length=20)
    """How texts are chosen: nucleus draws them (BLIP's way, more varied), beam and greedy take the most probable."""
    batch_size: Positive = 64  # images per model call
    dtype: Dtype = "float32"  # what the models compute with; bfloat16 is faster on GPUs, and texts and scores move a little
    pixels: Pixels = "exact"
    """exact: full decode, bicubic, as BLIP was evaluated. fast: JPEGs decoded at 1/2, 1/4 or 1/8, bilinear; texts and scores move
    a little. Worth trying where decoding is the bottleneck."""

    @property
    def captioners(self) -> tuple[CaptionerConfig, ...]:
        return tuple(self.captioner) if isinstance(self.captioner, list) else (self.captioner,)

    @property
    def each(self) -> tuple["CaptionConfig", ...]:
        """The section once per captioner, with that one alone."""
        return tuple(self.model_copy(update={"captioner": one}) for one in self.captioners)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        _check_names("caption.captioner", self.captioners)
        return self


class FilterConfig(Section):
    """Scores for every text, web and synthetic, that no rule rejected. Nothing is thrown away here."""

    filter: Filters  # one model, or a list of them: each scores every text, `select.combine` says what counts
    batch_size: Positive = 64  # images per model call; all texts of an image are scored with it
    dtype: Dtype = "float32"  # as `caption.dtype`
    pixels: Pixels = "exact"  # exact or fast decoding, as `caption.pixels`
    allow_shared_weights: bool = operational(default=False)
    """Let one set of weights be both captioner and filter, which overlooks its own errors (BLIP Table 4); it is told wherever the
    run is."""

    @property
    def filters(self) -> tuple[FilterModelConfig, ...]:
        return tuple(self.filter) if isinstance(self.filter, list) else (self.filter,)

    @property
    def each(self) -> tuple["FilterConfig", ...]:
        """The section once per filter, with that one alone."""
        return tuple(self.model_copy(update={"filter": one}) for one in self.filters)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        _check_names("filter.filter", self.filters)
        return self


class DedupConfig(Section):
    """Finds pictures that show the same, of which `select` keeps the row with the best text, and those of evaluation sets."""

    min_cosine: float = Field(default=0.95, gt=0, le=1)
    """Two pictures are duplicates where the cosine of the first filter's image embeddings is at least this; equal bytes always
    are. Higher finds fewer. `capfilt select` may raise it later, not lower it."""
    decontaminate: list[str] = []
    """Parquet files of evaluation pairs (`key`, `image`, `captions`). Rows whose picture is in one, by bytes or `min_cosine`, are
    never written."""


class WriteConfig(Section):
    """The data set as files, with a manifest and a data card."""

    formats: list[Literal["parquet", "webdataset"]] = Field(default=["parquet", "webdataset"], min_length=1)
    """Each has all rows. parquet is what `pretrain` reads; webdataset is tars of .jpg, .txt and .json for other trainers."""
    rows_per_shard: Positive = 10_000  # rows of one file; the last one may have fewer
