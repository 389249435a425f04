import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.download.addresses import Target, parse_url
from capfilt.download.outcome import FetchError
from capfilt.download.robots import ALLOW_ALL, RobotsCache, RobotsRules, parse_robots, product_token
from capfilt.download.stated import consent_of, respected, robots_tag_words

FILE = """
# comment
User-agent: otherbot
Disallow: /

User-agent: CapFilt/2.0
User-agent: thirdbot
Disallow: /private
Allow: /private/open
Disallow: /*.gif$
Crawl-delay: 3

User-agent: *
Disallow: /everybody
"""


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", True),
        ("/private/a.jpg", False),
        ("/private/open/a.jpg", True),
        ("/a/b.gif", False),
        ("/a/b.gif?size=1", True),
        ("/everybody", True),  # a group of our own replaces the one for everybody
        ("/robots.txt", True),
    ],
)
def test_the_longest_rule_of_our_own_group_decides(path: str, allowed: bool) -> None:
    assert parse_robots(FILE, "capfilt").allows(path) is allowed


def test_an_unnamed_agent_obeys_the_group_for_everybody() -> None:
    rules = parse_robots(FILE, "fourthbot")
    assert not rules.allows("/everybody/x")
    assert rules.allows("/private")


@pytest.mark.parametrize("text", ["", "Disallow: /", "<html>not found</html>", "User-agent: *\nDisallow:", "\ufeff\x00\x00"])
def test_a_file_without_rules_for_us_allows_everything(text: str) -> None:
    assert parse_robots(text, "capfilt").allows("/a.jpg")


def test_groups_for_one_agent_are_joined() -> None:
    rules = parse_robots("User-agent: capfilt\nDisallow: /a\n\nUser-agent: capfilt\nDisallow: /b", "capfilt")
    assert [rules.allows(path) for path in ("/a", "/b", "/c")] == [False, False, True]


def test_escapes_and_plain_letters_are_the_same_path() -> None:
    rules = parse_robots("User-agent: *\nDisallow: /süß", "capfilt")
    assert not rules.allows("/s%c3%bc%C3%9F/a.jpg")


@pytest.mark.parametrize(
    ("rule", "path", "allowed"),
    [
        ("/~joe/", "/%7Ejoe/a.jpg", False),
        ("/%7ejoe/", "/~joe/a.jpg", False),
        ("/%6Aoe", "/joe", False),
        ("/private/", "/x/../private/a.jpg", False),
        ("/private/", "/x/%2E./private/a.jpg", False),
        ("/private/", "/./private/a.jpg", False),
        ("/private/$", "/private/x/..", False),
        ("/x/", "/x/../open/a.jpg", True),
        ("/my pictures/", "/my pictures/a.jpg", False),
        ("/my pictures/", "/my%20pictures/a.jpg", False),
        ('/"a"', "/%22a%22", False),
        ("/a(1)", "/a%281%29", False),
        ("/a%281%29", "/a(1)", False),
        ("/a/b", "/a%2Fb", True),
        ("/a/b", "/a//b", True),
        ("/a//b", "/a//b", False),
        ("/a?b=/../c", "/a?b=/../c", False),
        ("/a%2A.jpg", "/a*.jpg", False),
        ("/a%2A.jpg", "/ab.jpg", True),
        ("/*.jpg%24", "/a.jpg$", False),
        ("/*.jpg$", "/a.jpg$", True),
        ("/%257E", "/~", True),
    ],
)
def test_a_path_is_the_same_however_it_is_spelt(rule: str, path: str, allowed: bool) -> None:
    rules = parse_robots(f"User-agent: *\nDisallow: {rule}", "capfilt")
    assert rules.allows(parse_url(f"http://web.test{path}").path) is allowed


@pytest.mark.parametrize("value", ["008", "360Spider", "80legs", "", "*bot", "(capfilt)"])
def test_a_group_for_an_agent_without_a_product_token_is_nobodys(value: str) -> None:
    shut = parse_robots(f"User-agent: {value}\nDisallow: /", "capfilt")
    assert shut.allows("/a.jpg")
    kept_out = parse_robots(f"User-agent: {value}\nAllow: /\n\nUser-agent: *\nDisallow: /", "capfilt")
    assert not kept_out.allows("/a.jpg")


def test_an_agent_without_a_product_token_begins_a_group_and_shares_one() -> None:
    rules = parse_robots("User-agent: capfilt\nDisallow: /a\nUser-agent: 008\nDisallow: /b", "capfilt")
    assert [rules.allows(path) for path in ("/a", "/b")] == [False, True]
    shared = parse_robots("User-agent: 008\nUser-agent: capfilt\nUser-agent: 80legs\nDisallow: /c", "capfilt")
    assert not shared.allows("/c")


def test_allow_wins_among_equally_long_rules() -> None:
    assert RobotsRules(((False, "/a"), (True, "/a"))).allows("/a")


@given(st.text(alphabet="ab/*$", min_size=1, max_size=8), st.text(alphabet="ab/", max_size=8))
def test_patterns_match_as_the_regular_expression_they_stand_for(pattern: str, path: str) -> None:
    is_anchored = pattern.endswith("$")
    body = pattern.removesuffix("$")
    expression = "".join(".*" if letter == "*" else re.escape(letter) for letter in body)
    matches = re.match(expression + (r"\Z" if is_anchored else ""), path) is not None
    assert RobotsRules(((False, pattern),)).allows(path) is not matches


@given(st.text(max_size=300), st.text(max_size=20))
def test_no_file_makes_the_parser_raise(text: str, path: str) -> None:
    assert parse_robots(text, "capfilt").allows(path) in (True, False)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["noai, noimageai"], {"noai", "noimageai"}),
        (["NoIndex", "noai"], {"noindex", "noai"}),
        (["capfilt: noai, nofollow"], {"noai", "nofollow"}),
        (["otherbot: noai, nofollow"], set()),
        (["noarchive, otherbot: noai, capfilt: noindex"], {"noarchive", "noindex"}),
        (["*: noai"], {"noai"}),
        (["unavailable_after: Wed, 25 Jun 2025 15:00:00 GMT, noai"], {"unavailable_after", "noai"}),
        (["max-image-preview: large, noindex"], {"max-image-preview", "noindex"}),
        (["", ",,:,", "\x00"], set()),
    ],
)
def test_an_x_robots_tag_speaks_to_everybody_or_to_one(values: list[str], words: set[str]) -> None:
    assert robots_tag_words(values, "capfilt") - {"wed"} == words


def test_none_means_noindex_and_is_named_none() -> None:
    respect = frozenset({"noindex", "noai"})
    assert respected(frozenset({"none"}), respect) == {"none"}
    assert respected(frozenset({"none", "noai"}), respect) == {"noai"}
    assert respected(frozenset({"nofollow"}), respect) == frozenset()


def test_consent_lists_what_restricts_in_alphabet() -> None:
    assert consent_of(frozenset({"noindex", "noai", "all", "max-snippet"})) == "x_robots_tag:noai+noindex"
    assert consent_of(frozenset({"all"})) == "none_stated"


def test_consent_names_a_reservation_before_the_words() -> None:
    assert consent_of(frozenset(), True) == "tdm_reservation"
    assert consent_of(frozenset({"noai"}), True) == "tdm_reservation;x_robots_tag:noai"


def host(number: int) -> Target:
    return parse_url(f"http://host{number}.test/")


def test_rules_are_remembered_for_a_bounded_number_of_hosts() -> None:
    asked: list[str] = []

    def fetch(target: Target) -> RobotsRules:
        asked.append(target.host)
        return ALLOW_ALL

    cache = RobotsCache(fetch, hosts=3)
    for number in (0, 1, 2, 0, 3, 0, 1):  # 3 pushes 1 out, which was longest out of use
        cache.rules(host(number))
    assert asked == [f"host{number}.test" for number in (0, 1, 2, 3, 1)]


def test_hosts_with_endless_rules_cannot_fill_the_memory() -> None:
    many = RobotsRules(tuple((False, f"/{number:05d}") for number in range(1000)))
    cache = RobotsCache(lambda target: many, limit=3 * many.size)
    for number in range(20):
        assert not cache.rules(host(number)).allows("/00007")
        assert cache.size <= 3 * many.size
    assert cache.size == 3 * many.size


def test_a_failure_is_remembered_for_minutes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fail(target: Target) -> RobotsRules:
        asked.append(target.host)
        raise FetchError("timeout")

    cache = RobotsCache(fail)
    for seconds in (0, 10, 301):
        now = time.monotonic() + seconds
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", lambda now=now: now)
            with pytest.raises(FetchError, match="timeout"):
                cache.rules(host(0))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("agent", "token"), [("capfilt/0.1 (+https://x)", "capfilt"), ("My-Bot", "my-bot"), ("", "*"), ("007", "*")]
)
def test_the_product_token_is_the_first_word(agent: str, token: str) -> None:
    assert product_token(agent) == token
