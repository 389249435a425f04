"""The typed pipeline: frozen, complete in its defaults, and stable in which settings are operational."""

import pytest
from pydantic import ValidationError

from capfilt.config.base import Section, is_operational
from capfilt.config.download import DownloadConfig
from capfilt.config.load import load_pipeline
from capfilt.config.pipeline import Pipeline
from capfilt.config.read import UrlList
from capfilt.config.train import Losses, Mix
from capfilt.errors import ConfigError


def test_a_loaded_pipeline_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_pipeline("quickstart").seed = 3  # type: ignore[misc]


def test_every_section_refuses_unknown_keys() -> None:
    sections = [kind for kind in Section.__subclasses__() if kind.__module__.startswith("capfilt.config")]
    assert len(sections) > 20
    assert all(section.model_config["extra"] == "forbid" for section in sections)


def test_which_download_settings_are_operational_is_pinned() -> None:
    operational = {name for name, field in DownloadConfig.model_fields.items() if is_operational(field)}
    assert operational == {"connect_to", "allow_hosts", "deadline_s", "retries", "per_host", "max_redirects", "user_agent"}


def test_a_url_list_must_have_the_address() -> None:
    with pytest.raises(ValidationError, match="expected the column of `url`, found null"):
        UrlList(paths=["a.parquet"], columns={"url": None})


def test_the_mix_must_add_up_to_one() -> None:
    assert Mix(web=0.8, human=0.2).web == 0.8
    with pytest.raises(ValidationError, match=r"add up to 1; found web 0\.8 \+ human 0\.3"):
        Mix(web=0.8, human=0.3)


def test_a_loss_that_is_not_named_or_zero_has_no_weight() -> None:
    assert Losses(itc=1, lm=0).weights() == {"itc": 1}


def test_the_exact_scene_measure_needs_the_truth() -> None:
    data = load_pipeline("quickstart").model_dump(mode="json")
    data["evaluate"]["truth"] = None
    with pytest.raises(ValidationError, match=r"found no `evaluate\.truth`"):
        Pipeline.model_validate(data)


def test_a_data_set_has_a_format() -> None:
    with pytest.raises(ConfigError, match=r"write\.formats"):
        load_pipeline("quickstart", ["write.formats=[]"])
