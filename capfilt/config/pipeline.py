"""The pipeline file as typed, frozen sections, in the order in which a run meets them.

Says what may be written, never what it builds. Every field is result-affecting unless it is `operational`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from capfilt.config.base import ONE, ONE_OR_SEVERAL, SEVERAL, Positive, Section, operational
from capfilt.config.download import DownloadConfig
from capfilt.config.evaluate import EvaluateConfig
from capfilt.config.machine import ReportConfig, Resources
from capfilt.config.miniweb import MiniwebConfig
from capfilt.config.read import ReadConfig
from capfilt.config.round import (
    AnyModel,
    CaptionConfig,
    CustomModel,
    DedupConfig,
    FilterConfig,
    NamedModel,
    TrainedModel,
    WriteConfig,
)
from capfilt.config.screen import ScreenConfig
from capfilt.config.select import SelectConfig
from capfilt.config.train import ROLES, FinetuneConfig, PretrainConfig

Pretrain = Annotated[
    Annotated[PretrainConfig, Tag(ONE)] | Annotated[list[PretrainConfig], Field(min_length=1), Tag(SEVERAL)], ONE_OR_SEVERAL
]


class Pipeline(Section):
    """One pipeline file. `{output}` in any string is the run's folder, the only placeholder."""

    version: Literal[1]  # of the file's format
    name: str  # title of plan, report and data card
    seed: int = 0
    """All chance follows from it: drawn texts, training, bootstrap intervals, the small web. Change it to repeat an experiment
    with other chance."""
    output: str = operational()  # run folder: a path, `~` for home, or any address that fsspec writes to, such as s3://bucket/run
    rounds: Positive = 1  # how often caption … evaluate go over the pool; above 1 each round uses the models of the one before
    miniweb: MiniwebConfig | None = None  # draw and serve a small web on this machine, as the quickstarts do; null: the real web
    read: ReadConfig | None = None
    """Where rows come from. null: a run that only trains, on shards (`pretrain.web`) or from a model (`finetune.start`)."""
    download: DownloadConfig = DownloadConfig()  # how pictures are fetched and kept
    screen: ScreenConfig = ScreenConfig()  # cheap rules before any model; without the section nothing is rejected
    caption: CaptionConfig | None = None
    """Who writes synthetic texts. null: nobody; the run makes the pool, and `pretrain`, if there, learns from its web texts."""
    filter: FilterConfig | None = None  # who scores all texts; null: no scores, so no `dedup` and no `select`
    dedup: DedupConfig | None = None  # finds duplicates and evaluation pictures; null: every row stands for itself
    select: SelectConfig | None = None  # which texts are kept; null: the run decides nothing and writes no data set
    write: WriteConfig | None = None  # the data set's files; null: none, and `pretrain` learns from the raw pool
    pretrain: Pretrain | None = None  # one section, or a list of named ones, made in their order
    finetune: FinetuneConfig | None = None  # the captioner and the filter that the next round uses; null: none
    evaluate: EvaluateConfig | None = None  # what the round's models are measured by; null: not measured
    report: ReportConfig = operational(default=ReportConfig())  # the page report.html at the end
    resources: Resources = operational(default=Resources())  # where it runs and on how much of the machine

    @property
    def has_round_0(self) -> bool:
        """True where a model of the round is `kind: trained`: somebody has to train the first one."""
        return any(isinstance(model, TrainedModel) for model in (*self.captioners, *self.filters))

    @property
    def captioners(self) -> tuple[AnyModel, ...]:
        return () if self.caption is None else self.caption.captioners

    @property
    def filters(self) -> tuple[AnyModel, ...]:
        return () if self.filter is None else self.filter.filters

    @property
    def pretrainings(self) -> tuple[PretrainConfig, ...]:
        """The sections of `pretrain`, in their order."""
        if self.pretrain is None:
            return ()
        return (self.pretrain,) if isinstance(self.pretrain, PretrainConfig) else tuple(self.pretrain)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of all models that a round makes."""
        return (*(one.model for one in self.pretrainings), *(self.finetune.models if self.finetune is not None else ()))

    def start_of(self, role: Literal["captioner", "filter"]) -> str:
        """What the role's fine-tuning begins with: the name of a `pretrain` section, or else a folder."""
        given = self.finetune.start_of(role) if self.finetune is not None else None
        return given or self.pretrainings[-1].model

    @model_validator(mode="after")
    def _models_have_names(self) -> Self:
        names = [one.name for one in self.pretrainings]
        if isinstance(self.pretrain, list) and None in names:
            raise ValueError("pretrain: expected a name for each of several sections, found none for one. Add `name`")
        twice = next((name for name in names if name is not None and (names.count(name) > 1 or name in ROLES)), None)
        if twice is not None:
            raise ValueError(f"pretrain: expected names that no other model of the round has, found {twice}. Rename it")
        for at, one in enumerate(self.pretrainings):
            for which, source in (("image", one.init.image), ("text", one.init.text)):
                if source is not None and source in names[at:]:
                    raise ValueError(
                        f"pretrain.{at}.init.{which}: expected the name of an earlier section or a folder, found {source}. "
                        "Put that section first"
                    )
        if self.evaluate is not None:
            for asked in (self.evaluate.retrieval, self.evaluate.captioning):
                if asked is not None and self.models and asked.model not in self.models:
                    raise ValueError(
                        f"evaluate: expected one of the round's models, {', '.join(self.models)}, found {asked.model}. "
                        "Name one of them"
                    )
        if self.finetune is not None and self.finetune.trunk == "shared":
            last = self.pretrainings[-1].model if self.pretrainings else ""
            starts = sorted({self.finetune.start_of(role) or last for role in self.finetune.models})
            if len(starts) > 1:
                raise ValueError(
                    f"finetune.trunk: shared needs one start for captioner and filter, found {' and '.join(starts)}. "
                    "Name one, or write trunk: separate"
                )
        return self

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        needs = [
            ("filter", "caption"),
            ("dedup", "filter"),
            ("select", "filter"),
            ("write", "select"),
        ]
        self._only_training_goes_without_read()
        if self.finetune is not None and self.pretrain is None and None in map(self.finetune.start_of, self.finetune.models):
            raise ValueError("section `finetune` builds on `pretrain` or on `finetune.start`; found neither. Add one")
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
        if self.evaluate is not None and self.pretrain is None and self.finetune is None:
            raise ValueError("section `evaluate` measures what was trained; found no `pretrain` or `finetune` section. Add one")
        if self.read is not None:
            self.screen.require_columns(self.read.keep_columns)
        written = [model.checkpoint for model in self.captioners if isinstance(model, NamedModel)]
        read = [model.checkpoint for model in self.filters if isinstance(model, NamedModel)]
        same = next((checkpoint for checkpoint in written if checkpoint in read), None)
        if same is not None and self.filter is not None and not self.filter.allow_shared_weights:
            raise ValueError(
                f"captioner and filter are the same weights ({same}); a filter overlooks the "
                "errors of its own captioner (BLIP Table 4: 8 % instead of 25 % noise found). Name another checkpoint for one of "
                "them, or write filter.allow_shared_weights: true"
            )
        return self

    @model_validator(mode="after")
    def _every_filter_can_be_judged(self) -> Self:
        if self.select is None:
            return self
        self._thresholds_have_filters(self.select)
        named = [(model, self.select.of(model.called).score) for model in self.filters if isinstance(model, NamedModel)]
        lacking = [(model, score) for model, score in named if score not in model.scores]
        if lacking:
            without = [model.name or model.checkpoint for model, score in lacking if score == lacking[0][1]]
            raise ValueError(self.select.without_it(without, lacking[0][1], is_one_of_several=len(self.filters) > 1))
        return self

    def _thresholds_have_filters(self, select: SelectConfig) -> None:
        """Whether `select.by` names filters of this run, in every round; what a custom one is called is not known here."""
        names = [model.called if isinstance(model, NamedModel) else model.name for model in self.filters]
        if any(isinstance(model, CustomModel) and model.name is None for model in self.filters):
            return
        unknown = next((name for name in select.by if name not in names), None)
        if unknown is not None:
            raise ValueError(select.no_such(unknown, names))
        first = next((model for model in self.filters if isinstance(model, NamedModel)), None)
        is_renewed = self.rounds > 1 and self.finetune is not None and "filter" in self.finetune.models
        is_renewed = is_renewed and not any(isinstance(model, TrainedModel) for model in self.filters)
        if is_renewed and first is not None and first.name is None and first.called in select.by:
            raise ValueError(
                f"select.by: expected a `name` for the filter {first.called}, found none; from round 2 on one that this run "
                "trains stands in its place, under that name. Give it one in filter.filter"
            )

    def _only_training_goes_without_read(self) -> None:
        if self.read is not None:
            return
        found = [name for name in ("miniweb", "caption") if getattr(self, name) is not None]
        if found or (self.pretrain is None and self.finetune is None):
            what = f"the section `{found[0]}`" if found else "no training either"
            raise ValueError(
                f"expected a `read` section, found none and {what}. Add `read`, or train on shards with `pretrain.web`"
            )
        if any(one.web is None and one.mix.web > 0 for one in self.pretrainings):
            raise ValueError(
                "pretrain.web: expected shards to train on where there is no `read`, found null. Name them, or add `read`"
            )
        if self.rounds > 1:
            raise ValueError(f"rounds: expected 1 where there is no `read`, found {self.rounds}. Write 1")
