"""Codes and numbers as a reader wants to see them: plain words, grouped digits, escaped text.

Knows no file and no HTML element; `esc` is the only way a text from the web may reach the page.
"""

import html
import math
import re

STATUS = {
    "ok": "fine",
    "download_failed": "could not be downloaded",
    "download_blocked": "on a blocklist",
    "opted_out": "opted out by their host",
    "image_invalid": "not a usable picture",
    "rule_rejected": "rejected by a picture rule",
    "caption_failed": "could not be captioned",
    "filter_failed": "could not be scored",
}

REASON = {
    "kept": "kept",
    "row_not_ok": "its picture takes no part",
    "rule": "rejected by a text rule",
    "error": "text or score could not be made",
    "below_threshold": "below the threshold",
    "not_chosen": "passes, another text preferred",
    "duplicate": "passes, but a copy of a kept picture",
    "contaminated": "passes, but in an evaluation set",
}

RULE = {
    "not_empty": "the page gave no text",
    "not_file_name": "a file name, not a description",
    "not_markup": "markup, not a description",
    "words": "too few or too many words",
    "characters": "too few or too many characters",
    "letters": "too few letters",
    "repetition": "repeats itself",
    "language": "another language",
    "boilerplate": "boilerplate of a page or shop",
    "pii": "personal data",
}

SCORE = {"itm": "ITM score", "itc": "cosine (ITC)", "relative": "relative score"}
SCORE_MEANING = {
    "itm": "the probability that it describes its picture",
    "itc": "the cosine between its embedding and that of its picture",
    "relative": "an ITM or a cosine, shown on one scale on which 0 is the least, 0.5 its own threshold and 1 the greatest",
}


def esc(text: object) -> str:
    """Text that is safe in an HTML element and in a quoted attribute; control characters are dropped."""
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", "", str(text)), quote=True)


def spaced(code: str) -> str:
    """`http_404` -> `http 404`: a code without an entry above still reads as words."""
    return code.replace("_", " ").strip()


def rule_words(rule: str) -> str:
    """`pii:email` -> `personal data (email)`."""
    name, _, detail = rule.partition(":")
    words = RULE.get(name, spaced(name))
    return f"{words} ({spaced(detail)})" if detail else words


def code_of(error: str | None) -> str:
    """The closed code in front of an error's detail."""
    return re.split(r"[:\s(]", error or "", maxsplit=1)[0] or "no code"


def count(value: float) -> str:
    return f"{round(value):,}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as per cent; an en dash where there is none."""
    return "–" if not is_number(share) or share is None else f"{share * 100:.{digits}f} %"


def digits_for(*shares: float | None) -> int:
    """Decimals of these shares as per cent: two where all are below 1 %, as a weak model's recalls are, else one."""
    return 2 if max((abs(share) for share in shares if share is not None), default=1.0) < 0.01 else 1


def points(share: float, digits: int = 1) -> str:
    """A difference of shares, signed, in percentage points; one that rounds to nothing has no sign."""
    told = f"{abs(share) * 100:.{digits}f}"
    sign = "±" if not float(told) else "+" if share > 0 else "−"
    return f"{sign}{told} points"


def number(value: float | None, digits: int = 3) -> str:
    return "–" if not is_number(value) or value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def shorten(text: str, limit: int = 180) -> str:
    """At most `limit` characters, white space collapsed: hostile texts may be megabytes long."""
    text = re.sub(r"\s+", " ", text[: limit * 20]).strip()
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plural(value: int, one: str, many: str | None = None) -> str:
    return f"{count(value)} {one if value == 1 else many or one + 's'}"
