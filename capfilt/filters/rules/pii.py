"""E-mail addresses, phone, card and IP numbers in a text, and the text without them.

By their written form only; names and postal addresses are not looked for. Each find is replaced by its kind in brackets.
"""

import re
from collections.abc import Sequence

from capfilt.config.screen import PiiKind

_NOT_A_DOMAIN = r"(?:png|jpe?g|gif|webp|svg|html?|php|js|css)"  # logo@2x.png
_EMAIL = re.compile(
    rf"(?<![\w.+\-%])[\w.+\-%]{{1,64}}@(?:[\w\-]{{1,63}}\.){{1,8}}(?!{_NOT_A_DOMAIN}\b)[^\W\d_]{{2,24}}(?![\w@])", re.IGNORECASE
)
_GAP = r"(?:\x20?[.\-\u2010-\u2015]\x20?|[\x20\u00a0])"
# Nothing that belongs to a longer number, a decimal, a version or a part number on either side.
_NUMBER_STARTS, _NUMBER_ENDS = r"(?<![\w+])(?<![\d#$€£][.,\-/])", r"(?![\w%])(?![.,\-/]\d)"
_PHONE = re.compile(
    _NUMBER_STARTS
    + rf"""(?:
        \+\d{{1,3}}{_GAP}?(?:\(0?\d{{1,4}}\){_GAP}?)?\d{{1,4}}(?:{_GAP}?\d{{2,5}}){{1,4}}      # +49 (0)30 1234567
      | (?:1{_GAP})?\([2-9]\d\d\){_GAP}?[2-9]\d\d{_GAP}\d{{4}}                                  # (317) 555-0123
      | (?:1[.\-])?[2-9]\d\d[.\-][2-9]\d\d[.\-]\d{{4}}                                          # 1-800-555-0123, 317.555.0123
      | 07\d{{3}}{_GAP}?\d{{3}}{_GAP}?\d{{3}}                                                   # 07700 900123
      | 0[38]00{_GAP}\d{{3}}{_GAP}?\d{{3,4}}                                                   # 0800 123 4567
    )"""
    + _NUMBER_ENDS,
    re.VERBOSE,
)
_CUED_PHONE = re.compile(
    r"(?<!\w)(?P<cue>(?:tel(?:ephone)?|phone|ph|call(?: us| me| now)?(?: (?:at|on))?|mob(?:ile)?|cell|fax|whats ?app|hot ?line|"
    r"toll[- ]free|contact(?: (?:us|me|no|number))?)(?: ?(?:no|number|\#))?[ .:@\-]{0,3}|[☎☏📞📱]\ufe0f? ?)"
    rf"(?P<number>[+(]?\d(?:(?:{_GAP}|[()/] ?)?\d){{6,14}})" + _NUMBER_ENDS,
    re.IGNORECASE,
)
_CARD = re.compile(
    r"(?<![\w.,\-])\d{4}(?:[ \-]?\d{4}){2}[ \-]?\d{4}(?![\w\-])|(?<![\w.,\-])3[47]\d\d[ \-]?\d{6}[ \-]?\d{5}(?![\w\-])"
)
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")


class PiiFinder:
    """Looks for `find`, always in the order email, card, phone, ip, so that no kind eats what belongs to another."""

    def __init__(self, find: Sequence[PiiKind]) -> None:
        self._kinds: list[PiiKind] = [kind for kind in _ORDER if kind in find]

    def masked(self, text: str) -> tuple[str, PiiKind | None]:
        """The text with every find as `[kind]`, and the kind of the first that was found; None and the text itself for none."""
        first: PiiKind | None = None
        for kind in self._kinds:
            replaced = _REPLACE[kind](text)
            if replaced != text and first is None:
                first = kind
            text = replaced
        return text, first


def _email(text: str) -> str:
    return _EMAIL.sub("[email]", text) if "@" in text else text


def _phone(text: str) -> str:
    def plain(match: re.Match[str]) -> str:
        return "[phone]" if 7 <= sum(map(str.isdigit, match[0])) <= 15 else match[0]

    return _PHONE.sub(plain, _CUED_PHONE.sub(r"\g<cue>[phone]", text))


def _card(text: str) -> str:
    def checked(match: re.Match[str]) -> str:
        digits = [int(character) for character in match[0] if character.isdigit()]
        return "[card]" if digits[0] in (3, 4, 5, 6) and has_luhn_digit(digits) else match[0]

    return _CARD.sub(checked, text)


def _ip(text: str) -> str:
    def checked(match: re.Match[str]) -> str:
        parts = [int(part) for part in match[0].split(".")]
        return "[ip]" if max(parts) <= 255 and max(parts) > 9 else match[0]  # 1.2.3.4 is rather a version

    return _IP.sub(checked, text)


def has_luhn_digit(digits: Sequence[int]) -> bool:
    """True where the last digit is the Luhn check of the others, as on every card."""
    doubled = [digit if place % 2 == 0 else 2 * digit - 9 * (digit > 4) for place, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


_REPLACE = {"email": _email, "card": _card, "phone": _phone, "ip": _ip}
_ORDER: tuple[PiiKind, ...] = ("email", "card", "phone", "ip")
