import pytest
from pydantic import ValidationError

from capfilt.config.download import DownloadConfig


@pytest.mark.parametrize("agent", ["capfilt/0.1", "my-bot", "Mozilla/5.0 (compatible; my-bot; +https://example.org)"])
def test_an_honest_user_agent_has_a_name(agent: str) -> None:
    assert DownloadConfig(user_agent=agent).user_agent == agent


@pytest.mark.parametrize("agent", ["", " capfilt", "1.0", "capfilt\r\nX-Evil: 1", "käfer/1.0"])
def test_a_user_agent_that_no_host_could_address_is_refused(agent: str) -> None:
    with pytest.raises(ValidationError, match="expected a name that hosts can address"):
        DownloadConfig(user_agent=agent)
