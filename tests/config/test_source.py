"""YAML 1.2 scalars, lines, and what is refused."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from capfilt.config.source import as_yaml, dump, override, parse
from capfilt.errors import ConfigError

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdefgh", min_size=1), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("1E5", 100_000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1_000", -1000),
        ("20_000_000", 20_000_000),
        ("0x1f", 31),
        ("0o17", 15),
        ("017", 17),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("'2e-3'", "2e-3"),
        ("e3", "e3"),
        ("_1", "_1"),
    ],
)
def test_scalars_are_read_as_yaml_1_2_does(text: str, value: object) -> None:
    found = parse(f"key: {text}\n", "x.yaml").tree["key"]
    assert found == value
    assert type(found) is type(value)


@given(plain_values)
@example("a\x85b")
@example("\u2028")
def test_plain_values_survive_the_round_trip(value: object) -> None:
    assert parse(dump({"key": value}), "x.yaml").tree == {"key": value}


@given(
    st.from_regex(r"[-+]?[0-9_.]{0,4}([eE:][-+]?[0-9]{1,2})?", fullmatch=True)
    | st.sampled_from(["no", "null", "~", "0o7", ".inf"])
)
def test_a_text_that_looks_like_a_number_stays_a_text(text: str) -> None:
    assert parse(dump({"key": text}), "x.yaml").tree == {"key": text}
    assert yaml.safe_load(dump({"key": text})) == {"key": text}


def test_each_value_remembers_its_line() -> None:
    source = parse("a:\n  b: 1\n  c:\n    - 2\n    - d: 3\n", "x.yaml")
    assert source.place(("a", "b")) == "x.yaml:2"
    assert source.place(("a", "c", 1, "d")) == "x.yaml:5"
    assert source.place(("a", "missing")) == "x.yaml:1"


def test_a_key_that_stands_twice_is_refused_with_both_lines() -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml:4 a\.b: expected each key once, found it in line 2 too"):
        parse("a:\n  b: 1\n  c: 2\n  b: 3\n", "x.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1, 2\nb: 3\n", "expected YAML"),
        ("a: !!python/object:os.system {}\n", "tag"),
        ("a: !mine 3\n", "x.yaml:1: expected plain values, found the tag"),
        ("a: &x [*x]\n", "alias"),
        ("? [1, 2]\n: 3\n", "expected a name before the colon"),
        ("a: \x00\n", "expected YAML in UTF-8"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml") as caught:
        parse(text, "x.yaml")
    assert told in str(caught.value)


def test_an_alias_repeats_its_anchor() -> None:
    assert parse("a: &x {b: 1}\nc: *x\n", "x.yaml").tree == {"a": {"b": 1}, "c": {"b": 1}}


@given(st.text(max_size=20))
@example("runs/try #2")
@example("42")
@example("true")
@example("a: b")
@example(" x")
@example('it\'s "so"\\')
@example("\u2028\x85\x00\U0001f600")
@example("long " * 60)
def test_any_text_can_be_written_as_yaml_that_means_it(text: str) -> None:
    assert parse(as_yaml(text), "x").tree == text
    assert "\n" not in as_yaml(text)


def test_a_plain_text_is_written_as_it_is() -> None:
    assert as_yaml("/archive/mine") == "/archive/mine"
    assert as_yaml("42") == '"42"'


def test_an_override_begins_a_list_that_is_not_there_and_adds_to_it() -> None:
    source = parse("a: {b: null}\n", "x.yaml")
    for assignment in ("a.b.0=first", "a.b.1=second", "c.0.kind=third", "c.0.px=3"):
        override(source, assignment)
    assert source.tree == {"a": {"b": ["first", "second"]}, "c": [{"kind": "third", "px": 3}]}
    assert source.place(("a", "b", 1)) == "--set a.b.1=second"
