"""Sections `caption`, `filter`, `dedup`, `select` and `write`: one round from pool to data set."""

from typing import Annotated, Literal

from pydantic import Field

from capfilt.config.base import Positive, Section, Share, operational
from capfilt.config.decoding import Decoding, Nucleus


class TrainedModel(Section):
    """The last one this run fine-tuned for the role: round N - 1's in round N."""

    kind: Literal["trained"]


class NamedModel(Section):
    """A checkpoint of the user's own."""

    checkpoint: str  # a folder or a hub name


class MedModel(NamedModel):
    """A MED checkpoint: a folder or a hub name."""

    kind: Literal["med"]


class CocaModel(NamedModel):
    """A CoCa: a folder that was trained here, or open_clip's with CLIP's tokenizer in it."""

    kind: Literal["coca"]


class Blip2Model(NamedModel):
    """A BLIP-2: a folder that was trained here, of transformers' or LAVIS'. Its language model, if any, captions."""

    kind: Literal["blip2"]


class ClipCapModel(NamedModel):
    """A ClipCap with an image side: a folder that was trained here, or a released file beside GPT-2's tokenizer and `clip/`."""

    kind: Literal["clipcap"]


class SohoModel(NamedModel):
    """A SOHO: a folder that was trained here, or its authors' file with vocab.txt beside it."""

    kind: Literal["soho"]


class CustomModel(Section):
    """The escape hatch: `target: "pkg.mod:Class"`, built as Class(**options)."""

    kind: Literal["custom"]
    target: str = Field(pattern=r"^[\w.]+:\w+$")
    options: dict[str, str | int | float | bool | None] = {}


CaptionerConfig = Annotated[
    TrainedModel | MedModel | CocaModel | Blip2Model | ClipCapModel | CustomModel, Field(discriminator="kind")
]
FilterModelConfig = Annotated[
    TrainedModel | MedModel | CocaModel | Blip2Model | SohoModel | CustomModel, Field(discriminator="kind")
]
Dtype = Literal["float32", "bfloat16"]
Pixels = Literal["exact", "fast"]


class CaptionConfig(Section):
    captioner: CaptionerConfig
    captions_per_image: Positive = 1
    prompt: str = "a picture of "
    decode: Decoding = Nucleus(kind="nucleus", top_p=0.9, min_length=5, max_length=20)
    batch_size: Positive = 64  # images per model call
    dtype: Dtype = "float32"
    # exact: full decode, bicubic, as BLIP was evaluated. fast: JPEGs decoded at 1/2, 1/4 or 1/8, bilinear; scores move a little
    pixels: Pixels = "exact"


class FilterConfig(Section):
    filter: FilterModelConfig
    batch_size: Positive = 64
    dtype: Dtype = "float32"
    pixels: Pixels = "exact"  # as `caption.pixels`
    allow_shared_weights: bool = operational(default=False)
    """Let one set of weights be both captioner and filter, which overlooks its own errors (BLIP Table 4); it is told wherever the
    run is."""


class DedupConfig(Section):
    min_cosine: float = Field(default=0.95, gt=0, le=1)  # of the filter's image embedding; equal sha256 are always duplicates
    decontaminate: list[str] = []  # Parquet files of evaluation pairs


class SelectConfig(Section):
    # both, web, synthetic: every text of these origins that passes. best, web_else_synthetic: one kind per row
    policy: Literal["both", "web_else_synthetic", "best", "web", "synthetic"] = "both"
    min_itm: Share = 0.5  # 0: every scored text passes
    min_itc: float | None = Field(default=None, ge=-1, le=1)
    """Judge by the cosine instead of ITM, with this threshold: of a filter that has a cosine alone (CoCa). null: by ITM."""

    @property
    def score(self) -> Literal["itm", "itc"]:
        """What is judged by."""
        return "itm" if self.min_itc is None else "itc"

    @property
    def threshold(self) -> float:
        """Of `score`."""
        return self.min_itm if self.min_itc is None else self.min_itc


class WriteConfig(Section):
    formats: list[Literal["parquet", "webdataset"]] = ["parquet", "webdataset"]
    rows_per_shard: Positive = 10_000
