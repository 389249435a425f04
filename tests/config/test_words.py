from capfilt.config.base import Section
from capfilt.config.pipeline import Pipeline
from capfilt.config.words import words_of


class _Base(Section):
    inherited: int = 1  # from the base


class _Own(_Base):
    behind: int = 1  # metres,   at most
    below: int = 2
    """Seconds | minutes."""
    silent: int = 3


def test_words_stand_behind_or_below_a_field_and_are_inherited():
    expected = {"inherited": "from the base", "behind": "metres, at most", "below": "Seconds | minutes.", "silent": ""}
    assert words_of(_Own) == expected


def test_editors_see_the_words():
    properties = Pipeline.model_json_schema()["$defs"]["DownloadConfig"]["properties"]
    assert properties["jpeg_quality"]["description"] == "of the stored JPEG, 1 to 100"
    assert _Own.model_json_schema()["properties"]["behind"]["description"] == "metres, at most"
