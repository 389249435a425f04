"""Before and after in words and numbers: the verdict, the table of measures, and the filter's quality.

Works on the dictionaries of metrics.json; a measure that is not there makes no row. A worse result is called worse.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capfilt.config.select import CALLED
from capfilt.report import charts
from capfilt.report.facts import Facts, Json, Round, dig, interval
from capfilt.report.words import count, digits_for, esc, is_number, number, percent, points, spaced

Interval = tuple[float, float] | None
PRIMARY = {"mean_recall_at_1": "mean of text and image recall@1"}


@dataclass(frozen=True)
class Measure:
    """One line of the before/after table. Higher is better in all of them."""

    name: str
    help: str
    before: float | None
    after: float | None
    before_interval: Interval = None
    after_interval: Interval = None
    is_share: bool = True

    @property
    def digits(self) -> int:
        return digits_for(self.before, self.after, *(self.before_interval or ()), *(self.after_interval or ()))

    def shown(self, value: float | None) -> str:
        return percent(value, self.digits) if self.is_share else number(value)

    def shown_interval(self, ends: Interval) -> str:
        if ends is None:
            return ""
        low, high = (f"{end * 100:.{self.digits}f}" if self.is_share else f"{end:.2f}" for end in ends)
        return f"{low} – {high}"

    @property
    def drawn(self) -> str:
        """Shares on a line from 0 to 1, others from 0 to the largest value shown."""
        ends = (self.before, self.after, *(self.before_interval or ()), *(self.after_interval or ()))
        top = 1.0 if self.is_share else max([value for value in ends if value is not None], default=1.0)
        return charts.dots(self.before, self.after, (self.before_interval, self.after_interval), top or 1.0)

    @property
    def change(self) -> str:
        if self.before is None or self.after is None:
            return "–"
        gain = self.after - self.before
        return points(gain, self.digits) if self.is_share else f"{'+' if gain >= 0 else '−'}{abs(gain):.3f}"


def verdict(facts: Facts) -> tuple[str, str]:
    """(class, sentence in HTML): `better`, `unclear`, `worse`, or `none` where there is nothing to compare."""
    first, last = facts.before, facts.after
    if first is None:
        return "none", "This run trained no model, so there is no before and after. It ends with its data."
    name = str(dig(first.metrics, "primary", "name") or "primary")
    what = esc(PRIMARY.get(name, spaced(name)))
    if first.primary is None:
        return "none", "The models were evaluated, but the primary measure is missing from <code>metrics.json</code>."
    if last is None or last.primary is None:
        return "none", (
            f"Round {first.number}’s model reaches {_primary(first, digits_for(first.primary))} ({what}). "
            "No later round was evaluated, so there is nothing to compare it with."
        )
    gain = last.primary - first.primary
    digits = digits_for(first.primary, last.primary)
    old, new = (_primary(one, digits) for one in (first, last))
    tail = f"{points(gain, digits)} in {what}, round {first.number} against round {last.number}.{_by_chance(first, last, digits)}"
    apart = _are_apart(first.primary_interval, last.primary_interval)
    if gain == 0:
        return "unclear", f"No change: the new model stays at {new}. {tail}"
    if apart and gain > 0:
        return "better", f"The new model is <em>better</em>: from {old} to {new}. {tail}"
    if apart:
        return "worse", f"A negative result: the new model is <em>worse</em>, from {old} to {new}. {tail}"
    if apart is None:
        word, why = ("higher" if gain > 0 else "lower"), "without intervals nobody can say whether by chance"
    else:
        word, why = "higher, but not shown to be better", "the intervals overlap"
        if gain < 0:
            word = "lower: a negative result, though not beyond chance"
    return "unclear", f"The new model scores <em>{word}</em>, from {old} to {new}; {why}. {tail}"


def _primary(one: Round, digits: int) -> str:
    ends = one.primary_interval
    around = f' <span class="interval">({" – ".join(f"{end * 100:.{digits}f}" for end in ends)})</span>' if ends else ""
    return f"<b>{percent(one.primary, digits)}</b>{around}"


def _by_chance(first: Round, last: Round, digits: int) -> str:
    """Said where a model is not told from one that guesses, which finds one of n pictures, or a text of it, in 1 of n cases."""
    pairs = dig(last.metrics, "retrieval", "pairs")
    if not is_number(pairs) or not pairs:
        return ""
    guessed = [one.number for one in (first, last) if one.primary_interval and one.primary_interval[0] <= 1 / pairs]
    who = "Neither is" if len(guessed) == 2 else f"Round {guessed[0]} is not" if guessed else ""
    return f" {who} told from guessing, {percent(1 / pairs, digits)}." if who else ""


def measures(first: Json, last: Json) -> list[Measure]:
    """Every measure that one of the two metrics has."""
    found = [_measure("Primary", "mean of the two recall@1", first, last, ("primary", "value"), ("primary", "interval"))]
    for key, name, direction in (("text_retrieval", "TR", "picture → text"), ("image_retrieval", "IR", "text → picture")):
        ranks = {rank for one in (first, last) for rank in (dig(one, "retrieval", key) or {}) if re.fullmatch(r"r\d+", rank)}
        for rank in sorted(ranks, key=lambda rank: int(rank[1:])):
            at, ends = ("retrieval", key, rank), ("retrieval", "interval", f"{key}_{rank}")
            found.append(_measure(f"{name} R@{rank[1:]}", direction, first, last, at, ends))
    for key, name, told in (
        ("cider_d", "CIDEr-D", "captions against human texts"),
        ("exact_scene", "Whole scene", "captions that state all of it, rightly"),
        ("true", "True captions", "everything stated holds"),
    ):
        of, around = ("captioning", key), ("captioning", f"{key}_interval")
        found.append(_measure(name, told, first, last, of, around, is_share=key != "cider_d"))
    return [one for one in found if one.before is not None or one.after is not None]


def measure_table(first: Round, last: Round | None) -> str:
    """The before/after table; with one round only, its values."""
    rows = []
    for one in measures(first.metrics, last.metrics if last else {}):
        cells = _cell(one.shown(one.before), one.shown_interval(one.before_interval))
        if last is not None:
            cells += _cell(f"<b>{one.shown(one.after)}</b>", one.shown_interval(one.after_interval)) + f"<td>{one.change}</td>"
        name = f'<th scope="row">{esc(one.name)}<small>{esc(one.help)}</small></th>'
        rows.append(f'<tr>{name}{cells}<td class="drawn">{one.drawn}</td></tr>')
    heads = ["Measure", f"Round {first.number}", *([f"Round {last.number}", "Change"] if last else [])]
    key = '<span class="key-dot early"></span> before <span class="key-dot late"></span> after' if last else ""
    return _table(heads, rows, f'<th scope="col" class="drawn">{key}</th>')


def quality_table(quality: Any) -> str:
    """The filter's judgement of both origins, one column each. Empty without truth."""
    web, synthetic = (one if isinstance(one := dig(quality, name), dict) else {} for name in ("web", "synthetic"))
    if not web and not synthetic:
        return ""
    columns = [_column("web", web, quality), _column("synthetic", synthetic, quality)]
    rows = [
        f'<tr><th scope="row">{name}<small>{told}</small></th><td>{columns[0][index]}</td><td>{columns[1][index]}</td></tr>'
        for index, (name, told) in enumerate(
            (
                ("Scored", "texts"),
                ("True before", "of all scored texts"),
                ("Kept", "at or above the threshold"),
                ("True after", "of the kept texts: precision"),
                ("Recall", "of the true texts, kept"),
                ("ROC AUC", "true against false, over all thresholds"),
            )
        )
    ]
    return _table(["", '<span class="tag web">web</span>', '<span class="tag synthetic">synthetic</span>'], rows)


def _column(name: str, one: Json, quality: Any) -> list[str]:
    size, kept, noise = one.get("count"), one.get("kept"), dig(quality, "noise_ratio", name)
    kept_share = _share(kept, size)
    if kept_share is None and is_number(noise):
        kept_share = 1 - float(noise)
    before, after = one.get("true_before"), one.get("true_after")
    return [
        _count(size),
        percent(_share(one.get("true") if before is None else before, size)),
        percent(kept_share),
        percent(_share(one.get("precision") if after is None else after, size)),
        percent(one.get("recall")),
        number(one.get("roc_auc")),
    ]


def noise_kind_table(quality: Any) -> str:
    """What became of the web texts of each kind: how many are kept, as a bar."""
    kinds = dig(quality, "web", "by_noise_kind")
    if not isinstance(kinds, dict):
        return ""
    rows = []
    for name, one in sorted(kinds.items(), key=lambda item: -(dig(item[1], "count") or 0)):
        share = dig(one, "kept_share")
        if not is_number(share):
            share = _share(dig(one, "kept"), dig(one, "count"))
        bar = f'<span class="meter"><i class="web" style="width:{(share or 0) * 100:.1f}%"></i></span>'
        rows.append(
            f'<tr><th scope="row">{esc(spaced(str(name)))}</th><td>{_count(dig(one, "count"))}</td>'
            f"<td>{_count(dig(one, 'true'))}</td>"
            f'<td class="meter-cell">{bar}<span>{percent(share, 0)}</span></td><td>{number(dig(one, "roc_auc"))}</td></tr>'
        )
    return _table(["Noise kind", "Texts", "True", "Kept", "ROC AUC"], rows) if rows else ""


def missed_table(quality: Any) -> str:
    """Captioner by filter: false texts that pass, and true ones. Empty where there is one of each, or no truth."""
    matrix = dig(quality, "missed")
    if not isinstance(matrix, dict) or not matrix:
        return ""
    filters = list(dict.fromkeys(name for own in matrix.values() for name in own))
    rows = []
    for captioner, own in matrix.items():
        cells = []
        for name in filters:
            one = own.get(name) or {}
            around = f"{percent(one.get('kept_true'), 0)} of {_count(one.get('true'))} true" if one else ""
            cells.append(_cell(f"{percent(one.get('missed'), 0)} <small>of {_count(one.get('false'))} false</small>", around))
        rows.append(f'<tr><th scope="row">{esc(captioner)}</th>{"".join(cells)}</tr>')
    heads = [esc(name) + _judged_by(matrix, name) for name in filters]
    return f'<div class="wide">{_table(["captioner", *heads], rows)}</div>'


def _judged_by(matrix: Json, name: str) -> str:
    """A filter's own score and threshold, where filters differ in them."""
    own = {str(of): (one.get("score"), one.get("threshold")) for filters in matrix.values() for of, one in filters.items()}
    score, threshold = own[name]
    if "relative" not in {score for score, _ in own.values()} or score not in CALLED or not is_number(threshold):
        return ""
    return f"<small>{CALLED[score]} {threshold:g}</small>"


def _table(heads: Sequence[str], rows: Sequence[str], more: str = "") -> str:
    told = "".join(f'<th scope="col">{head}</th>' if head else "<td></td>" for head in heads)
    return f'<table class="numbers"><thead><tr>{told}{more}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _cell(value: str, around: str) -> str:
    return f"<td>{value}{f'<small>{around}</small>' if around else ''}</td>"


def _measure(
    name: str, told: str, first: Json, last: Json, at: tuple[str, ...], ends: tuple[str, ...], is_share: bool = True
) -> Measure:
    before, after = dig(first, *at), dig(last, *at)
    return Measure(
        name,
        told,
        float(before) if is_number(before) else None,
        float(after) if is_number(after) else None,
        interval(dig(first, *ends)),
        interval(dig(last, *ends)),
        is_share,
    )


def _share(part: Any, whole: Any) -> float | None:
    """A share as it is, or a count over the whole: metrics may hold either. Counts are integers."""
    if not is_number(part):
        return None
    if isinstance(part, int) or part > 1:
        return float(part / whole) if is_number(whole) and whole else None
    return float(part)


def _are_apart(one: Interval, other: Interval) -> bool | None:
    if one is None or other is None:
        return None
    return one[1] < other[0] or other[1] < one[0]


def _count(value: Any) -> str:
    return count(value) if is_number(value) else "–"
