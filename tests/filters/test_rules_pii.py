import pytest
from hypothesis import given
from hypothesis import strategies as st

from capfilt.config.screen import PiiKind
from capfilt.filters.rules.pii import PiiFinder, has_luhn_digit

ALL: list[PiiKind] = ["email", "phone", "card", "ip"]
EVERY_KIND = PiiFinder(ALL)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail <a.b+c@d-e.org>!", "mail <[email]>!"),
        ("john.doe@example.co.uk, jane@example.com", "[email], [email]"),
        ("call me at 317-555-0123.", "call me at [phone]."),
        ("Tel: +49 (0)30 1234567", "Tel: [phone]"),
        ("Tel. 030/1234567", "Tel. [phone]"),
        ("(317) 555-0123 today", "[phone] today"),
        ("+44 20 7946 0958", "[phone]"),
        ("1-800-555-0199", "[phone]"),
        ("0800 123 4567", "[phone]"),
        ("Scrap cars wanted £100 plus 07700900123", "Scrap cars wanted £100 plus [phone]"),
        ("for an appointment call 317 - 555 - 0117 .", "for an appointment call [phone] ."),
        ("Call @ 02261054600 - Price", "Call @ [phone] - Price"),
        ("WhatsApp 98765 43210", "WhatsApp [phone]"),
        ("☏ 911 014 146", "☏ [phone]"),
        ("card 4111 1111 1111 1111", "card [card]"),
        ("378282246310005", "[card]"),
        ("from 192.168.10.24", "from [ip]"),
    ],
)
def test_personal_data_are_replaced_by_their_kind(text: str, masked: str) -> None:
    assert EVERY_KIND.masked(text)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "ISBN 978-3-16-148410-0",
        "9780554282121 - The Trail of the Tramp",
        "Killing Floor (0399142533) by Child, Lee",
        "2014-03-09 12:30:11",
        "iPhone 4 4S 5 5S 6",
        "4111111111111112",
        "Shutterstock vector #699876439",
        "Part 25-1234-0056",
        "v10.2.3.400",
        "APK 3.7.5.8",
        "logo@2x.png",
        "@houseoftalent",
        "a@b",
        "call 911",
        "Phone case for Samsung 1234567",
        "$2,500,300.40",
        "1995-2005 550 x 730 x 1010 mm",
        "550W for Dell Inspiron 518 519 530 531 537 540",
        "1280 x 1024",
    ],
)
def test_other_numbers_and_signs_are_left_alone(text: str) -> None:
    assert EVERY_KIND.masked(text) == (text, None)


def test_the_first_kind_found_is_named_and_only_asked_kinds_are_looked_for() -> None:
    text = "ann@example.org 317-555-0123"
    assert EVERY_KIND.masked(text)[1] == "email"
    assert PiiFinder(["phone"]).masked(text) == ("ann@example.org [phone]", "phone")


@given(st.text(st.characters(), max_size=200))
def test_a_masked_text_holds_nothing_more_to_mask(text: str) -> None:
    masked, found = EVERY_KIND.masked(text)
    assert (found is None) == (masked == text)
    assert EVERY_KIND.masked(masked)[0] == masked


@given(st.from_regex(r"[a-z][a-z0-9.]{0,10}@[a-z][a-z0-9]{0,8}\.(com|org|de)", fullmatch=True), st.text("abc ,;", max_size=20))
def test_no_address_survives_whatever_stands_around_it(address: str, around: str) -> None:
    assert address not in EVERY_KIND.masked(f"{around} {address} {around}")[0]


def test_luhn() -> None:
    assert has_luhn_digit([4, 1, 1, 1] + [1] * 12)
    assert not has_luhn_digit([4, 1, 1, 1] + [1] * 11 + [2])
