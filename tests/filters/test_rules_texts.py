import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from capfilt.config.screen import TextRule
from capfilt.filters.rules import TextRules
from capfilt.filters.rules.texts import has_markup, share_of_letters, share_of_repeats

ALL: list[dict[str, Any]] = [
    {"kind": "not_empty"},
    {"kind": "not_file_name"},
    {"kind": "not_markup"},
    {"kind": "words", "min": 2, "max": 60},
    {"kind": "characters"},
    {"kind": "letters"},
    {"kind": "repetition"},
    {"kind": "repetition", "unit": "characters", "length": 10},
    {"kind": "language", "languages": ["en"]},
    {"kind": "boilerplate", "phrases": ["my shop"]},
    {"kind": "pii", "find": ["email", "phone", "card", "ip"]},
]
CODES = {str(rule["kind"]) for rule in ALL}


def rules(*settings: dict[str, Any]) -> TextRules:
    return TextRules(TypeAdapter(list[TextRule]).validate_python(settings))


EVERY_RULE = rules(*ALL)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "not_empty"),
        (" \n\u00a0", "not_empty"),
        ("DSC_0012", "not_file_name"),
        ("a <b>red</b> dog", "not_markup"),
        ("dog", "words"),
        ("a b", "characters"),
        ("ISBN 9780340829752 12", "letters"),
        ("All around Asia | All around Asia | All around Asia", "repetition"),
        ("Ein brauner Hund läuft über die Wiese", "language"),
        ("一只棕色的狗 在草地上奔跑", "language"),
        ("Click here to enlarge image", "boilerplate:page"),
        ("dog @ my shop", "boilerplate:phrases"),
        ("a brown dog, write to ann@example.org", "pii:email"),
        ("a brown dog runs across the meadow", None),
    ],
)
def test_each_rule_rejects_by_its_name(text: str, name: str | None) -> None:
    assert EVERY_RULE.judge(text).rule == name


def test_the_first_rule_in_the_order_written_is_named() -> None:
    words, empty = {"kind": "words", "min": 1}, {"kind": "not_empty"}
    assert rules(words, empty).judge("").rule == "words"
    assert rules(empty, words).judge("").rule == "not_empty"


def test_masking_changes_the_text_and_rejects_nothing() -> None:
    judged = rules({"kind": "pii", "action": "mask"}).judge("a red dog, call 317-555-0123")
    assert judged == ("a red dog, call [phone]", None)


def test_personal_data_are_masked_in_rejected_texts_too() -> None:
    judged = rules({"kind": "words", "min": 20}, {"kind": "pii"}).judge("a red dog, ann@example.org")
    assert judged == ("a red dog, [email]", "words")
    assert rules({"kind": "pii"}).judge("ann@example.org").text == "[email]"


def test_rules_behind_a_mask_see_the_masked_text() -> None:
    judged = rules({"kind": "pii", "action": "mask"}, {"kind": "letters", "min_share": 0.7}).judge("tel 317-555-0123 dog")
    assert judged == ("tel [phone] dog", None)


@given(st.text(st.characters(), max_size=300))
def test_no_unicode_makes_a_rule_raise_and_names_are_closed_codes(text: str) -> None:
    judged = EVERY_RULE.judge(text)
    assert judged.rule is None or judged.rule.split(":")[0] in CODES


@given(st.text(st.characters(), max_size=300))
def test_judging_twice_gives_the_same(text: str) -> None:
    assert EVERY_RULE.judge(text) == EVERY_RULE.judge(text)


@given(st.text())
def test_no_rules_reject_and_change_nothing(text: str) -> None:
    assert rules().judge(text) == (text, None)


@pytest.mark.parametrize("text", ["<b>x</b>", "a<br/>b", "x <p class='y'>", "<!-- 12 -->dog", "</SPAN>", '<a href="x">'])
def test_tags_are_markup(text: str) -> None:
    assert has_markup(text)


@pytest.mark.parametrize(
    "text", ["", "triple high helix <3", "CD4 < 350 and > 20", "Cin Chili &amp; Co", "a <- b", "<完売>", "<<< sale >>>"]
)
def test_smaller_signs_and_entities_are_not(text: str) -> None:
    assert not has_markup(text)


def test_letters_count_with_their_marks_and_in_every_script() -> None:
    assert share_of_letters("हिन्दी में") == 1
    assert share_of_letters("一只狗 a") == 1
    assert share_of_letters("ab12") == 0.5
    assert share_of_letters(" ") == 1


@given(st.text(), st.sampled_from(["words", "characters"]), st.integers(1, 12))
def test_shares_are_shares(text: str, unit: str, length: int) -> None:
    assert 0 <= share_of_letters(text) <= 1
    assert 0 <= share_of_repeats(text, unit, length) < 1


def test_repeats_are_counted_without_case() -> None:
    assert share_of_repeats("Red dog red DOG", "words", 1) == 0.5
    assert share_of_repeats("red dog red dog", "words", 2) == pytest.approx(1 / 3)
    assert share_of_repeats("a b c d", "words", 2) == 0
    assert share_of_repeats("ababab", "characters", 2) == pytest.approx(3 / 5)


def test_hostile_texts_take_no_time() -> None:
    """A pattern that is quadratic in the length of one of these takes a minute and more."""
    parts = ("a", "a. ", "1", "1 ", "<a ", "a.b@", "+1-", "a-", "1,1", "size s ", "click to see ", "(", "1.1.")
    judges = (EVERY_RULE, rules({"kind": "pii", "find": ["email", "phone", "card", "ip"]}, {"kind": "boilerplate"}))
    start = time.process_time()
    for part in parts:
        for judge in judges:
            judge.judge(part * (30_000 // len(part)))
    assert time.process_time() - start < 6
