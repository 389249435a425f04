"""The pages that are made from code are the ones that are committed; links between pages lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

from capfilt.config.base import Section
from capfilt.config.pipeline import Pipeline
from capfilt.config.words import words_of

DOCS = Path(__file__).parent.parent / "docs"
GENERATE = runpy.run_path(str(DOCS / "generate.py"), run_name="generate")
PAGES = GENERATE["pages"]()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name], "run `make docs`"


def test_every_setting_of_the_quickstart_stands_on_the_configuration_page() -> None:
    page = PAGES["configuration.md"]
    for key in ("rows_per_chunk", "respect_x_robots_tag", "min_itm", "rerank_top_k", "max_failure_rate", "itm_position"):
        assert f"| `{key}` |" in page


def test_operational_settings_are_marked() -> None:
    lines = PAGES["configuration.md"].splitlines()
    assert any(line.startswith("| `deadline_s`") and "| operational |" in line for line in lines)
    assert any(line.startswith("| `min_itm`") and "| result |" in line for line in lines)


def _sections(section: type[Section], found: dict[type[Section], None]) -> dict[type[Section], None]:
    """`section` and all that may stand inside it."""
    if section not in found:
        found[section] = None
        for field in section.model_fields.values():
            for inner in GENERATE["_sections"](field.annotation):
                _sections(inner, found)
    return found


@pytest.mark.parametrize("section", _sections(Pipeline, {}), ids=lambda section: section.__name__)
def test_every_key_of_a_pipeline_file_says_what_it_does(section: type[Section]) -> None:
    silent = [name for name in section.model_fields if not words_of(section).get(name)]
    assert silent == [], "write a comment behind the field or a text below it"


@pytest.mark.parametrize("section", _sections(Pipeline, {}), ids=lambda section: section.__name__)
def test_every_section_of_a_pipeline_file_says_what_it_is(section: type[Section]) -> None:
    assert section.__doc__ != Section.__doc__, "write a docstring"


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), *DOCS.parent.glob("*.md")]), ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
