from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.report.words import code_of, digits_for, duration, esc, percent, points, shorten


@given(st.text())
def test_an_escaped_text_opens_no_element_and_ends_no_attribute(text: str) -> None:
    opened: list[tuple[str, list[tuple[str, str | None]]]] = []

    class Watch(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            opened.append((tag, attrs))

    Watch().feed(f'<p title="{esc(text)}">{esc(text)}</p>')
    assert [(tag, [name for name, _ in attrs]) for tag, attrs in opened] == [("p", ["title"])]


@given(st.text(), st.integers(1, 300))
def test_a_shortened_text_is_never_longer_than_its_limit(text: str, limit: int) -> None:
    assert len(shorten(text, limit)) <= limit


@pytest.mark.parametrize(("seconds", "told"), [(0.42, "0.4 s"), (59.2, "59 s"), (121, "2 min 01 s"), (7260, "2 h 01 min")])
def test_durations_read_as_people_say_them(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_missing_share_is_a_dash_and_a_loss_has_a_minus() -> None:
    assert percent(None) == percent(float("nan")) == "–"
    assert points(-0.021) == "−2.1 points"
    assert points(-0.0004) == "±0.0 points"
    assert points(-0.0004, digits_for(0.009, 0.0086)) == "−0.04 points"


@pytest.mark.parametrize(
    ("error", "code"), [("http_404", "http_404"), ("timeout: 3 s", "timeout"), (None, "no code"), ("", "no code")]
)
def test_the_code_is_what_stands_before_the_detail(error: str | None, code: str) -> None:
    assert code_of(error) == code
