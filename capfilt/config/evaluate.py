"""Section `evaluate`: what a round's models are measured by."""

from typing import Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section
from capfilt.config.decoding import Beam, Decoding


class RetrievalConfig(Section):
    model: str = "filter"  # of the round: `pretrained` (or the name of a `pretrain` section), `captioner` or `filter`
    recall_at: list[Positive] = [1, 5, 10]
    rerank_top_k: int = Field(default=16, ge=0)  # ITC first, ITM on the top k; 0: ITC alone


class CaptioningConfig(Section):
    model: str = "captioner"  # as `retrieval.model`
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
