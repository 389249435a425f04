"""Section `screen`: cheap rules on carried columns, pictures and texts. docs/screen.md says what each rejects of real data.

Says what may be written; the rules themselves are in capfilt/filters/rules/.
"""

import difflib
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from capfilt.config.base import Positive, Section, Share

# ── image rules: reject the row ────────────────────────────────────────────────────────────────────────────


class MinSide(Section):
    """Rejects the row when the shorter side of the picture as served has fewer pixels; an unknown size passes."""

    kind: Literal["min_side"]
    px: Positive  # pixels; fewer are rejected


class MaxAspect(Section):
    """Rejects the row when the longer side, as served, is more than `ratio` times the shorter one; an unknown size passes."""

    kind: Literal["max_aspect"]
    ratio: float = Field(ge=1)  # of longer to shorter side; more is rejected (DataComp basic: 3)


class Bytes(Section):
    """Rejects the row when the stored picture has fewer or more bytes than this."""

    kind: Literal["bytes"]
    min: int = Field(default=0, ge=0)  # bytes; fewer are rejected (LAION-400M: 5,000)
    max: Positive | None = None  # bytes; more are rejected; null: no upper limit

    @model_validator(mode="after")
    def _min_is_below_max(self) -> Self:
        _refuse_crossed(self.min, self.max)
        return self


class Blur(Section):
    """Rejects the row when the variance of the Laplacian of the grey picture, longer side 256 px, is below this."""

    kind: Literal["blur"]
    min_variance: float = Field(default=30, ge=0)  # higher rejects more; docs/screen.md has values of photographs


class OneColour(Section):
    """Rejects the row when more than this share of the picture is its commonest colour: placeholders, blank scans."""

    kind: Literal["one_colour"]
    max_share: Share = 0.95  # of its pixels; more is rejected


Missing = Literal["pass", "reject"]


class MaxValue(Section):
    """Rejects the row when the number in the carried column is greater."""

    kind: Literal["max_value"]
    column: str  # one of `read.keep_columns`
    value: float  # the largest that passes
    missing: Missing = "pass"  # a row without the value: null, NaN, or a text that is no number


class MinValue(Section):
    """Rejects the row when the number in the carried column is smaller."""

    kind: Literal["min_value"]
    column: str  # one of `read.keep_columns`
    value: float  # the smallest that passes
    missing: Missing = "pass"  # a row without the value: null, NaN, or a text that is no number


class OneOf(Section):
    """Rejects the row unless the carried column holds one of the values; case does not matter, `*` stands for any text."""

    kind: Literal["one_of"]
    column: str  # one of `read.keep_columns`
    values: list[str] = Field(min_length=1)  # those that pass
    missing: Missing = "reject"  # a row without the value: null or blank


class NotOneOf(Section):
    """Rejects the row when the carried column holds one of the values; case does not matter, `*` stands for any text."""

    kind: Literal["not_one_of"]
    column: str  # one of `read.keep_columns`
    values: list[str] = Field(min_length=1)  # those that are rejected
    missing: Missing = "pass"  # a row without the value: null or blank


ColumnRule = MaxValue | MinValue | OneOf | NotOneOf
ImageRule = Annotated[
    MinSide | MaxAspect | Bytes | Blur | OneColour | MaxValue | MinValue | OneOf | NotOneOf, Field(discriminator="kind")
]

# ── text rules: reject the web text, never its picture ─────────────────────────────────────────────────────


class NotEmpty(Section):
    """Rejects a text of nothing but white space."""

    kind: Literal["not_empty"]


class NotFileName(Section):
    """Rejects camera strings, file names and addresses: `IMG_2034.JPG`, `mount-everest-89590_1280`, `http://…`."""

    kind: Literal["not_file_name"]


class NotMarkup(Section):
    """Rejects a text with HTML tags."""

    kind: Literal["not_markup"]


class Words(Section):
    """Rejects a text with fewer or more words; words stand between white space, so a Chinese sentence is one."""

    kind: Literal["words"]
    min: int = Field(default=1, ge=0)  # fewer words are rejected
    max: int = Field(default=10_000, ge=1)  # more words are rejected

    @model_validator(mode="after")
    def _min_is_below_max(self) -> Self:
        _refuse_crossed(self.min, self.max)
        return self


class Characters(Section):
    """Rejects a text with fewer or more characters, counted without white space at its ends."""

    kind: Literal["characters"]
    min: int = Field(default=5, ge=0)  # fewer characters are rejected; LAION-400M and DataComp drop texts below 5 and 6
    max: int = Field(default=1_000, ge=1)  # more characters are rejected

    @model_validator(mode="after")
    def _min_is_below_max(self) -> Self:
        _refuse_crossed(self.min, self.max)
        return self


class Letters(Section):
    """Rejects a text in which letters are a smaller share of all characters but white space: codes, part numbers."""

    kind: Literal["letters"]
    min_share: Share = 0.5  # of letters among the characters; less is rejected


class Repetition(Section):
    """Rejects a text in which more than this share of the n-grams repeats an earlier one; case does not matter."""

    kind: Literal["repetition"]
    unit: Literal["words", "characters"] = "words"  # of what n-grams are made; characters for languages without spaces
    length: Positive = 2  # n; about 10 for characters
    max_share: Share = 0.2  # of the n-grams; more is rejected


def _known(code: str) -> str:
    if code not in LANGUAGES:
        near = difflib.get_close_matches(code, sorted(LANGUAGES), n=1, cutoff=0.5)
        raise ValueError(
            f"expected a language code of fastText's lid.176 such as en, de, zh; found '{code}'."
            + (f" Did you mean '{near[0]}'?" if near else " See docs/screen.md")
        )
    return code


class Language(Section):
    """Rejects a text when none of the languages gets this probability from fastText's lid.176; a text without letters passes."""

    kind: Literal["language"]
    languages: list[Annotated[str, AfterValidator(_known)]] = Field(min_length=1)  # codes as in lid.176: en, de, zh, …
    min_confidence: Share = 0.05
    """Low on purpose: names and products of two or three words get little for any language; 0.5 rejects 30 % of English
    alt-texts, most of them wrongly (docs/screen.md)."""


BoilerplateList = Literal["page", "stock", "shop"]


class Boilerplate(Section):
    """Rejects a text that holds a stock phrase and, without all such phrases, has fewer than `min_words_left` words left."""

    kind: Literal["boilerplate"]
    lists: list[BoilerplateList] = ["page", "stock", "shop"]  # built in: captions of page elements, picture agencies, shops
    phrases: list[str] = []  # your own; whole words, case and white space do not matter
    min_words_left: Positive = 2  # words with at least two letters

    @model_validator(mode="after")
    def _there_is_a_phrase(self) -> Self:
        if not self.lists and not self.phrases:
            raise ValueError("expected phrases to look for, found neither `lists` nor `phrases`. Name some or drop the rule")
        if not all(phrase.strip() for phrase in self.phrases):
            raise ValueError("phrases: expected words, found a blank phrase. Remove it")
        return self


PiiKind = Literal["email", "phone", "card", "ip"]


class Pii(Section):
    """Finds personal data. They are replaced in the row (`[email]`) whatever `action` says; `reject` also rejects the text."""

    kind: Literal["pii"]
    find: list[PiiKind] = Field(default=["email", "phone"], min_length=1)  # email addresses, phone, bank card, IP numbers
    action: Literal["reject", "mask"] = "reject"  # mask: the text stays a candidate, with `[email]` in place of the address


TextRule = Annotated[
    NotEmpty | NotFileName | NotMarkup | Words | Characters | Letters | Repetition | Language | Boilerplate | Pii,
    Field(discriminator="kind"),
]


class ScreenConfig(Section):
    """Rules are asked in the order written; docs/screen.md says what each rejects of real data."""

    image: list[ImageRule] = []  # reject the row; the first that rejects is named
    text: list[TextRule] = []  # reject the web text only; the first that rejects is named

    @property
    def columns(self) -> list[str]:
        """The carried columns that rules look at, each once."""
        return list(dict.fromkeys(rule.column for rule in self.image if isinstance(rule, ColumnRule)))

    def require_columns(self, carried: Sequence[str]) -> None:
        """Raises ValueError if a rule reads a column that is not among `carried`, the pipeline's `read.keep_columns`."""
        for column in self.columns:
            if column not in carried:
                found = ", ".join(carried) or "no column"
                raise ValueError(
                    f"screen.image: a rule reads the carried column `{column}`; `read.keep_columns` carries {found}. "
                    f"Add `{column}` to `read.keep_columns` or take the rule out"
                )


def _refuse_crossed(least: int, most: int | None) -> None:
    if most is not None and least > most:
        raise ValueError(f"expected min up to max, found min {least} and max {most}. Exchange them")


_CODES = (
    "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq "
    "dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it "
    "ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv "
    "mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl "
    "so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh"
)
LANGUAGES = frozenset(_CODES.split())
"""The codes of fastText's lid.176: ISO 639-1 where there is one, else 639-3."""
