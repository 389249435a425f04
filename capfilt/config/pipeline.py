"""The pipeline file as typed, frozen sections, in the order in which a run meets them.

Says what may be written, never what it builds. Every field is result-affecting unless it is `operational`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section, Share, operational
from capfilt.config.decoding import Beam, Decoding, Nucleus
from capfilt.config.miniweb import MiniwebConfig

# ── the pool ────────────────────────────────────────────────────────────────────────────────────────────────


class ReadConfig(Section):
    kind: Literal["url_list"] = "url_list"
    paths: list[str] = Field(min_length=1)  # fsspec paths, globs allowed
    columns: dict[Literal["uid", "url", "text"], str] = {"url": "url", "text": "text"}  # ours: theirs
    keep_columns: list[str] = []  # carried along in `upstream`
    rows_per_chunk: Positive = 1024

    @model_validator(mode="after")
    def _url_is_mapped(self) -> Self:
        if "url" not in self.columns:
            raise ValueError("columns must map `url`; found only " + ", ".join(sorted(self.columns)))
        return self


class DownloadConfig(Section):
    connect_to: dict[str, str] = operational(default={})  # host pattern -> host:port, or `miniweb`
    allow_hosts: list[str] = operational(default=[])  # host:port that may be a private address
    resize: Literal["keep_ratio"] = "keep_ratio"
    image_px: Positive = 384  # shorter side, never enlarged
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    max_bytes: Positive = 20_000_000
    max_pixels: Positive = 50_000_000  # checked before decoding
    deadline_s: float = operational(default=20.0, gt=0)  # all attempts, redirects and body together
    retries: int = operational(default=1, ge=0)
    per_host: int = operational(default=8, ge=1)  # connections at once, over all download actors
    max_redirects: int = operational(default=5, ge=0)
    respect_robots_txt: bool = True
    respect_x_robots_tag: list[str] = ["noai", "noimageai", "noindex", "noimageindex"]
    user_agent: str = operational(default="capfilt/0.1 (+https://example.org/about-our-crawler)")


class MinSide(Section):
    kind: Literal["min_side"]
    px: Positive


class MaxAspect(Section):
    kind: Literal["max_aspect"]
    ratio: float = Field(ge=1)


class MaxValue(Section):
    """Rejects the row when the carried column is greater; a missing value passes."""

    kind: Literal["max_value"]
    column: str
    value: float


class MinValue(Section):
    """Rejects the row when the carried column is smaller; a missing value passes."""

    kind: Literal["min_value"]
    column: str
    value: float


ImageRule = Annotated[MinSide | MaxAspect | MaxValue | MinValue, Field(discriminator="kind")]


class NotEmpty(Section):
    kind: Literal["not_empty"]


class NotFileName(Section):
    """Rejects camera strings and file names such as `IMG_2034.JPG`."""

    kind: Literal["not_file_name"]


class Words(Section):
    kind: Literal["words"]
    min: int = Field(default=1, ge=0)
    max: int = Field(default=10_000, ge=1)


TextRule = Annotated[NotEmpty | NotFileName | Words, Field(discriminator="kind")]


class ScreenConfig(Section):
    image: list[ImageRule] = []  # reject the row
    text: list[TextRule] = []  # reject the web text only


# ── one round ───────────────────────────────────────────────────────────────────────────────────────────────


class TrainedModel(Section):
    """The last one this run fine-tuned for the role: round N - 1's in round N."""

    kind: Literal["trained"]


class MedModel(Section):
    """A MED checkpoint: a folder or a hub name."""

    kind: Literal["med"]
    checkpoint: str


class CustomModel(Section):
    """The escape hatch: `target: "pkg.mod:Class"`, built as Class(**options)."""

    kind: Literal["custom"]
    target: str = Field(pattern=r"^[\w.]+:\w+$")
    options: dict[str, str | int | float | bool | None] = {}


CaptionerConfig = Annotated[TrainedModel | MedModel | CustomModel, Field(discriminator="kind")]
FilterModelConfig = Annotated[TrainedModel | MedModel | CustomModel, Field(discriminator="kind")]
Dtype = Literal["float32", "bfloat16"]


class CaptionConfig(Section):
    captioner: CaptionerConfig
    captions_per_image: Positive = 1
    prompt: str = "a picture of "
    decode: Decoding = Nucleus(kind="nucleus", top_p=0.9, min_length=5, max_length=20)
    batch_size: Positive = 64  # images per model call
    dtype: Dtype = "float32"


class FilterConfig(Section):
    filter: FilterModelConfig
    batch_size: Positive = 64
    dtype: Dtype = "float32"


class DedupConfig(Section):
    min_cosine: float = Field(default=0.95, gt=0, le=1)  # of the filter's image embedding; equal sha256 are always duplicates
    decontaminate: list[str] = []  # Parquet files of evaluation pairs


class SelectConfig(Section):
    policy: Literal["both", "web_else_synthetic", "best"] = "both"
    min_itm: Share = 0.5


class WriteConfig(Section):
    formats: list[Literal["parquet", "webdataset"]] = ["parquet", "webdataset"]
    rows_per_shard: Positive = 10_000


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────


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


class RetrievalConfig(Section):
    model: Literal["pretrained", "filter"] = "filter"
    recall_at: list[Positive] = [1, 5, 10]
    rerank_top_k: int = Field(default=16, ge=0)  # ITC first, ITM on the top k; 0: ITC alone


class CaptioningConfig(Section):
    model: Literal["pretrained", "captioner"] = "captioner"
    measures: list[Literal["cider_d", "exact_scene"]] = ["cider_d"]
    decode: Decoding = Beam(kind="beam", beams=3, max_length=20)


class FilterQualityConfig(Section):
    """Needs `evaluate.truth`."""

    model: Literal["filter"] = "filter"
    by: Literal["noise_kind"] = "noise_kind"


class EvaluateConfig(Section):
    heldout: str
    truth: str | None = None
    retrieval: RetrievalConfig | None = None
    captioning: CaptioningConfig | None = None
    filter_quality: FilterQualityConfig | None = None
    primary: Literal["mean_recall_at_1"] = "mean_recall_at_1"
    bootstrap: Positive = 1000

    @model_validator(mode="after")
    def _truth_where_needed(self) -> Self:
        exact = self.captioning is not None and "exact_scene" in self.captioning.measures
        if self.truth is None and (self.filter_quality is not None or exact):
            raise ValueError("`filter_quality` and `exact_scene` compare with the truth; found no `evaluate.truth`")
        return self


# ── report and machine ──────────────────────────────────────────────────────────────────────────────────────


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
    train: TrainResources = TrainResources()
    retries_per_chunk: int = Field(default=3, ge=0)
    chunks_per_wave: Positive = 512
    max_failure_rate: FailureRates = FailureRates()


class Pipeline(Section):
    """One pipeline file. `{output}` in any string is the run's folder, the only placeholder."""

    version: Literal[1]
    name: str
    seed: int = 0
    output: str = operational()
    rounds: Positive = 1
    miniweb: MiniwebConfig | None = None
    read: ReadConfig
    download: DownloadConfig = DownloadConfig()
    screen: ScreenConfig = ScreenConfig()
    caption: CaptionConfig | None = None
    filter: FilterConfig | None = None
    dedup: DedupConfig | None = None
    select: SelectConfig | None = None
    write: WriteConfig | None = None
    pretrain: PretrainConfig | None = None
    finetune: FinetuneConfig | None = None
    evaluate: EvaluateConfig | None = None
    report: ReportConfig = operational(default=ReportConfig())
    resources: Resources = operational(default=Resources())

    @property
    def has_round_0(self) -> bool:
        """True where a model of the round is `kind: trained`: somebody has to train the first one."""
        models = [self.caption and self.caption.captioner, self.filter and self.filter.filter]
        return any(isinstance(model, TrainedModel) for model in models)

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        needs = [
            ("filter", "caption"),
            ("dedup", "filter"),
            ("select", "filter"),
            ("write", "select"),
            ("finetune", "pretrain"),
        ]
        for section, needed in needs:
            if getattr(self, section) is not None and getattr(self, needed) is None:
                raise ValueError(
                    f"section `{section}` builds on `{needed}`; found no `{needed}` section. Add it or leave `{section}` out"
                )
        if self.has_round_0 and (self.pretrain is None or self.finetune is None):
            raise ValueError(
                "`kind: trained` needs the sections `pretrain` and `finetune`; found no model to train. "
                "Add them, or name a checkpoint"
            )
        if self.rounds > 1 and (self.pretrain is None or self.finetune is None):
            raise ValueError(
                f"rounds: {self.rounds} needs `pretrain` and `finetune`, which make the next round's models; found none. "
                "Add them or write rounds: 1"
            )
        if self.evaluate is not None and self.pretrain is None:
            raise ValueError("section `evaluate` measures what `pretrain` made; found no `pretrain` section. Add it")
        captioner = self.caption.captioner if self.caption else None
        scorer = self.filter.filter if self.filter else None
        if isinstance(captioner, MedModel) and isinstance(scorer, MedModel) and captioner.checkpoint == scorer.checkpoint:
            raise ValueError(
                f"captioner and filter are the same weights ({captioner.checkpoint}); a filter overlooks the errors of its own "
                "captioner (BLIP Table 4: 8 % instead of 25 % noise found). Name another checkpoint for one of them"
            )
        return self
