"""Section `evaluate`: what a round's models are measured by."""

from typing import Literal, Self

from pydantic import Field, model_validator

from capfilt.config.base import Positive, Section
from capfilt.config.decoding import Beam, Decoding


class RetrievalConfig(Section):
    """Finding the text of a picture and the picture of a text, among all held-out pairs."""

    model: str = "filter"  # of the round: `pretrained` (or the name of a `pretrain` section), `captioner` or `filter`
    recall_at: list[Positive] = [1, 5, 10]  # k of recall@k: how often the right one is among the first k
    rerank_top_k: int = Field(default=16, ge=0)
    """ITC's cosine ranks all; ITM then orders the first k anew. More is better and slower (BLIP: 256 on COCO, 128 on Flickr30k);
    0: ITC alone."""


class CaptioningConfig(Section):
    """Captions of the held-out pictures."""

    model: str = "captioner"  # as `retrieval.model`
    measures: list[Literal["cider_d", "exact_scene"]] = ["cider_d"]
    """cider_d: likeness to the human texts, 0 to 10. exact_scene: shares of captions that are true, and true and complete, where
    `truth` knows what is in the picture (the small web)."""
    decode: Decoding = Beam(kind="beam", beams=3, max_length=20)  # how captions are chosen; the prompt is `caption.prompt`


class FilterQualityConfig(Section):
    """How well the filter tells true texts from false ones. Needs `evaluate.truth`, and a round with candidates."""

    model: Literal["filter"] = "filter"  # those that scored the round's candidates
    by: Literal["noise_kind"] = "noise_kind"  # web texts are also told apart by this column of `truth`


class EvaluateConfig(Section):
    """Measures of a round's models, in `round-N/metrics.json`."""

    heldout: str  # Parquet with `key`, `image` and `captions`: pairs that nothing is trained on
    truth: str | None = None
    """Which texts are right: Parquet with `text_is_true` and `noise_kind`, each row named by `url`, `uid` or `key`. null: nobody
    knows, so no `filter_quality` and no `exact_scene`."""
    retrieval: RetrievalConfig | None = None  # do pictures and texts find each other; null: not measured
    captioning: CaptioningConfig | None = None  # are captions good; null: not measured
    filter_quality: FilterQualityConfig | None = None  # does the filter tell true texts from false; null: not measured
    primary: Literal["mean_recall_at_1"] = "mean_recall_at_1"
    """The one number that rounds are compared by: recall@1, the mean of both directions of `retrieval`."""
    bootstrap: Positive = 1000  # draws of the held-out pictures, from which the 95 % intervals come

    @model_validator(mode="after")
    def _truth_where_needed(self) -> Self:
        exact = self.captioning is not None and "exact_scene" in self.captioning.measures
        if self.truth is None and (self.filter_quality is not None or exact):
            raise ValueError("`filter_quality` and `exact_scene` compare with the truth; found no `evaluate.truth`")
        return self
