"""Section `select`: each filter's own score and threshold, and what is refused before any work."""

from typing import Any

import pytest
from pydantic import ValidationError

from capfilt.config.load import load_pipeline
from capfilt.config.pipeline import Pipeline
from capfilt.config.select import SelectConfig
from capfilt.errors import ConfigError

MED, COCA = "{kind: med, checkpoint: models/med}", "{kind: coca, checkpoint: models/coca}"
BOTH = f"filter.filter=[{MED}, {COCA}]"


def policy(**said: Any) -> SelectConfig:
    return SelectConfig.model_validate(said)


def loaded(*said: str) -> Pipeline:
    return load_pipeline("quickstart", said)


def refused(*said: str) -> str:
    with pytest.raises(ConfigError) as told:
        loaded(*said)
    return str(told.value)


def test_a_filter_without_a_threshold_of_its_own_goes_by_the_usual_one() -> None:
    judged = policy(combine="vote", min_itm=0.6, by={"coca": {"min_itc": 0.3}})
    assert judged.of("coca") == ("itc", 0.3)
    assert judged.of("med") == ("itm", 0.6)
    assert (judged.score, judged.threshold) == ("relative", 0.5)


def test_thresholds_that_do_not_differ_are_one() -> None:
    judged = policy(combine="mean", min_itm=0.7, by={"med": {"min_itm": 0.7}})
    assert (judged.score, judged.threshold) == ("itm", 0.7)


@pytest.mark.parametrize(("own", "found"), [({}, "neither"), ({"min_itm": 0.5, "min_itc": 0.3}, "both")])
def test_a_filter_has_one_threshold(own: dict[str, float], found: str) -> None:
    with pytest.raises(ValidationError, match=f"expected min_itm or min_itc, found {found}"):
        policy(combine="vote", by={"coca": own})


@pytest.mark.parametrize("own", [{"min_itc": 0.3}, {"min_itm": 0.7}])
def test_there_is_no_mean_of_what_cannot_be_compared(own: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"expected min or vote .* there is no mean of coca by .* others by ITM 0\.5"):
        policy(by={"coca": own})


def test_each_filter_must_give_what_it_is_judged_by() -> None:
    told = refused(BOTH)
    assert "expected ITM from every filter, found none from models/coca" in told
    assert "by select.by: {NAME: {min_itc: …}} with combine: vote or min" in told
    assert loaded(BOTH, "select.combine=vote", "select.by.coca.min_itc=0.3").select == policy(
        combine="vote", by={"coca": {"min_itc": 0.3}}
    )
    soho = f"filter.filter=[{MED}, {{kind: soho, checkpoint: models/soho}}]"
    told = refused(soho, "select.combine=vote", "select.by.soho.min_itc=0.3")
    assert "expected a cosine from every filter, found none from models/soho" in told


def test_a_threshold_of_no_filter_is_refused_with_the_nearest_name() -> None:
    told = refused(BOTH, "select.combine=vote", "select.by.cocoa.min_itc=0.3")
    assert "select.by: expected names of filters, med, coca, found 'cocoa'. Did you mean 'coca'?" in told
    told = refused(f"filter.filter=[{{kind: trained}}, {COCA}]", "select.combine=vote", "select.by.mine.min_itm=0.3")
    assert "give the one that this run trains a `name`" in told


def test_a_mistake_in_a_threshold_is_told_with_its_place() -> None:
    assert "select.by.coca.min_itc: 3 is out of range" in refused(BOTH, "select.combine=vote", "select.by.coca.min_itc=3")
    assert "unknown key 'itc'" in refused(BOTH, "select.combine=vote", "select.by.coca.itc=0.3")


def test_a_filter_that_gives_way_to_a_trained_one_keeps_its_threshold_by_its_name() -> None:
    said = ("rounds=2", "select.combine=vote", "select.min_itc=0.3", "select.by.med.min_itm=0.5")
    assert "expected a `name` for the filter med" in refused(BOTH, *said)
    named = "{kind: med, checkpoint: models/med, name: med}"
    assert loaded(f"filter.filter=[{named}, {COCA}]", *said).rounds == 2
