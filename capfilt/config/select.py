"""Section `select`: which texts are kept, by which score and threshold of which filter.

Says what is asked of scores; knows neither texts nor how scores come about.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from capfilt.config.base import Section, Share
from capfilt.config.explain import nearest
from capfilt.errors import ConfigError

ScoreName = Literal["itm", "itc"]
Combine = Literal["mean", "min", "vote"]
CALLED: dict[ScoreName, str] = {"itm": "ITM", "itc": "cosine"}
OWN = 0.5
"""Where each filter's own threshold lies on the scale of relative scores."""


class Threshold(NamedTuple):
    """What one filter is judged by: it believes a text whose `score` is at least `least`."""

    score: ScoreName
    least: float

    def __str__(self) -> str:
        return f"{CALLED[self.score]} {self.least:g}"


class OwnThreshold(Section):
    """One filter's own score and threshold: one of the two."""

    min_itm: Share | None = None  # by its ITM, as `select.min_itm`
    min_itc: float | None = Field(default=None, ge=-1, le=1)  # by its cosine, as `select.min_itc`

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.min_itm is None) == (self.min_itc is None):
            raise ValueError(f"expected min_itm or min_itc, found {'neither' if self.min_itm is None else 'both'}. Write one")
        return self

    @property
    def threshold(self) -> Threshold:
        return _threshold(self.min_itm or 0, self.min_itc)


class SelectConfig(Section):
    """Which texts are kept, by scores that are there already: to decide again takes seconds (`capfilt select`)."""

    policy: Literal["both", "web_else_synthetic", "best", "web", "synthetic"] = "both"
    """Of the texts that reach the threshold. both: all of them (BLIP). web, synthetic: those of this origin alone.
    web_else_synthetic: a row's web text, and its synthetic ones only if the web text fails. best: one per row, the highest
    score."""
    min_itm: Share = 0.5  # least probability of a match, by the filter's ITM; higher keeps fewer, 0 all scored texts
    min_itc: float | None = Field(default=None, ge=-1, le=1)
    """Judge by the cosine instead of ITM, with this threshold: of a filter that has a cosine alone (CoCa). null: by ITM."""
    by: dict[str, OwnThreshold] = {}
    """Of several filters, by their names, those with a score and threshold of their own: `{coca: {min_itc: 0.3}}`. The others
    go by the two settings above."""
    combine: Combine = "mean"
    """When several filters believe a text. mean: their mean score reaches the threshold. min: each one's reaches its threshold.
    vote: those of more than half do (of two, both). With thresholds of their own in `by`: min or vote."""

    @model_validator(mode="after")
    def _compares_like_with_like(self) -> Self:
        if self.combine == "mean" and self.differs:
            others = [f"{name} by {own.threshold}" for name, own in self.by.items() if own.threshold != self.usual]
            raise ValueError(
                f"combine: expected min or vote where filters have thresholds of their own, found mean; there is no mean of "
                f"{', '.join(others)} and the others by {self.usual}. Write vote (more than half of the filters believe the "
                "text) or min (all do)"
            )
        return self

    @property
    def usual(self) -> Threshold:
        """Of every filter that has none of its own."""
        return _threshold(self.min_itm, self.min_itc)

    def of(self, filter_name: str) -> Threshold:
        """What the filter of this name is judged by."""
        own = self.by.get(filter_name)
        return self.usual if own is None else own.threshold

    @property
    def differs(self) -> bool:
        """Whether a filter is judged otherwise than the rest, so that scores are to be compared by their thresholds."""
        return any(own.threshold != self.usual for own in self.by.values())

    @property
    def score(self) -> Literal["itm", "itc", "relative"]:
        """What is judged by. `relative`: each filter's own score, 0 being the least, 0.5 its threshold and 1 the greatest."""
        return "relative" if self.differs else self.usual.score

    @property
    def threshold(self) -> float:
        """Of `score`."""
        return OWN if self.differs else self.usual.least

    def check_names(self, filters: Sequence[str]) -> None:
        """Whether each of `by` is one of these names.

        Raises:
            ConfigError: If one is not.
        """
        unknown = next((name for name in self.by if name not in filters), None)
        if unknown is not None:
            raise ConfigError(self.no_such(unknown, filters))

    def no_such(self, name: str, filters: Sequence[str | None]) -> str:
        """What to say where `by` names a filter that is not there; None is one without a name."""
        there = [known for known in filters if known is not None]
        named = f", {', '.join(there)}" if there else ""
        unnamed = ", or give the one that this run trains a `name` in filter.filter" if None in filters else ""
        return f"select.by: expected names of filters{named}, found '{name}'.{nearest(name, there)} Name one of them{unnamed}"

    def without_it(self, filters: Sequence[str], score: ScoreName, *, is_one_of_several: bool) -> str:
        """What to say where `filters` do not give the score that they are judged by."""
        wanted, other = ("a cosine", "min_itm (and min_itc: null)") if score == "itc" else ("ITM", "min_itc")
        without = ", ".join(filters)
        alone = "min_itm" if score == "itc" else "min_itc"
        leave = (
            f"; or {without} alone, by select.by: {{NAME: {{{alone}: …}}}} with combine: vote or min; or leave {without} out of "
            "filter.filter"
            if is_one_of_several
            else ""
        )
        return f"select: expected {wanted} from every filter, found none from {without}. Judge by select.{other}{leave}"


def _threshold(min_itm: float, min_itc: float | None) -> Threshold:
    return Threshold("itm", min_itm) if min_itc is None else Threshold("itc", min_itc)
