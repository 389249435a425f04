"""Pictures with their texts, scores and fates: the cards, the duplicate groups, the held-out captions.

Gives HTML of rows that were chosen elsewhere. Every text passes `esc`: what the web wrote is never trusted.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from capfilt.config.select import SelectConfig
from capfilt.report.choice import Card
from capfilt.report.facts import Round, dig
from capfilt.report.scan import PASSING
from capfilt.report.thumbs import Thumbs
from capfilt.report.truth import Truth
from capfilt.report.words import REASON, STATUS, code_of, esc, plural, rule_words, shorten, spaced
from capfilt.stages.combine import judged_score, own_scores

HEADINGS = {
    "rescued": (
        "Web text rejected, synthetic text kept",
        "What CapFilt is for: the picture stays, with a text that the filter believes.",
    ),
    "both": ("Both kept", "Two texts that the filter believes."),
    "web_only": ("Web text kept, synthetic text rejected", "A synthetic text that the filter does not believe."),
    "neither": ("Both rejected", "No text that the filter believes: the picture leaves the data set."),
    "duplicate": ("Left out as duplicates", "Their texts pass, but another copy of the picture survives."),
    "contaminated": ("Left out as contaminated", "The picture is in an evaluation set and must not be trained on."),
    "rule": ("Rejected by a picture rule", "Never captioned nor scored."),
    "other": ("Kept otherwise", "The policy preferred one of several texts, or there was only one."),
    "undecided": ("Not decided", "This run ended before <code>select</code>."),
}
SHOWN_AT_ONCE = 6
COPIES_SHOWN = 4


def card_sections(
    cards: Sequence[Card], images: Mapping[str, bytes], thumbs: Thumbs, truth: Truth, policy: SelectConfig | None
) -> str:
    """Cards grouped by fate; long groups fold after the first few."""
    out = []
    for kind, group in groupby(cards, key=lambda card: card.kind):
        drawn = [_card(card, thumbs.uri(images.get(card.row_id)), truth, policy) for card in group]
        heading, told = HEADINGS[kind]
        shown, rest = "".join(drawn[:SHOWN_AT_ONCE]), drawn[SHOWN_AT_ONCE:]
        more = ""
        if rest:
            summary = f"<summary>{plural(len(rest), 'more picture')}</summary>"
            more = f'<details>{summary}<div class="cards">{"".join(rest)}</div></details>'
        lead = f'<h3>{esc(heading)}</h3><p class="muted">{told}</p>'
        out.append(f'<section class="fate">{lead}<div class="cards">{shown}</div>{more}</section>')
    return "".join(out)


def duplicate_groups(
    groups: Sequence[tuple[str, Sequence[str]]],
    pairs: Mapping[tuple[str, str], tuple[float | None, str]],
    images: Mapping[str, bytes],
    survivors: set[str],
    thumbs: Thumbs,
) -> str:
    """Each group in one frame, its copies side by side, the surviving one marked."""
    out = []
    for first, others in groups:
        figures = []
        for row_id in [first, *others][:COPIES_SHOWN]:
            survives = row_id in survivors
            mark = '<b class="kept">✓ survives</b>' if survives else '<span class="muted">left out</span>'
            picture = _picture(thumbs.uri(images.get(row_id)), "one of several copies of a picture")
            caption = f"<figcaption>{mark}<small>{_likeness(row_id, first, pairs)}</small></figcaption>"
            figures.append(f'<figure class="copy{" survivor" if survives else ""}">{picture}{caption}</figure>')
        out.append(f'<div class="group">{"".join(figures)}</div>')
    return f'<div class="groups">{"".join(out)}</div>'


def heldout_captions(first: Round, last: Round | None, images: Mapping[str, bytes], thumbs: Thumbs, limit: int) -> str:
    """The same unseen pictures, captioned by the first and by the last round's captioner."""
    before, after = examples(first), examples(last) if last else {}
    keys = [key for key in before if key in after or last is None] or list(after) or list(before)
    # First what changed: right now and wrong before, then the other way, then the rest.
    keys.sort(key=lambda key: (_true(after.get(key)) is _true(before.get(key)), _true(after.get(key)) is not True))
    out = []
    for key in keys[:limit]:
        lines = []
        for one, number in ((before.get(key), first.number), (after.get(key), last.number if last else None)):
            if one is not None:
                said = f"<bdi>{esc(shorten(str(one.get('caption', ''))))}</bdi>"
                lines.append(f"<p><small>round {number}</small> {said} {_badge(_true(one))}</p>")
        references = dig(after.get(key) or before.get(key), "references")
        human = shorten(str(references[0])) if isinstance(references, list) and references else ""
        told = f'<p class="muted"><small>a person</small> <bdi>{esc(human)}</bdi></p>' if human else ""
        picture = _picture(thumbs.uri(images.get(key)), human or "held-out picture")
        out.append(f'<article class="card plain">{picture}<div class="said">{"".join(lines)}{told}</div></article>')
    return f'<div class="cards">{"".join(out)}</div>' if out else ""


def examples(one: Round) -> dict[str, Mapping[str, Any]]:
    """The captioned held-out pictures of a round's metrics, by key."""
    told = dig(one.metrics, "captioning", "examples")
    return {str(each.get("key")): each for each in told if isinstance(each, dict)} if isinstance(told, list) else {}


def _card(card: Card, uri: str | None, truth: Truth, policy: SelectConfig | None) -> str:
    has_web = any(caption.get("origin") == "web" for caption in card.captions)
    texts = [] if has_web else [_absent_web(card)]
    for index, caption in enumerate(card.captions):
        texts.append(_text(card, caption, card.reasons[index] if card.reasons else None, truth, policy))
    made = [caption.get("text") for caption in card.captions if caption.get("origin") == "synthetic"]
    picture = _picture(uri, next((str(text) for text in made if text), card.text or "picture without a text"))
    return f'<article class="card">{picture}<div class="texts">{"".join(texts)}</div>{_foot(card, truth)}</article>'


def _foot(card: Card, truth: Truth) -> str:
    """Where the picture comes from, and the id that `capfilt explain` takes."""
    notes = []
    if card.contaminated_by:
        notes.append(f"shows {card.contaminated_by.rpartition('/')[2]}")
    if card.status != "ok":
        notes.append(f"{STATUS.get(card.status, spaced(card.status))}: {spaced(code_of(card.error))}")
    if kind := truth.noise_kind(card.url):
        notes.append(f"made as: {spaced(kind)}")
    told = "".join(f"<span>{esc(shorten(note, 80))}</span>" for note in notes)
    host = f'<span title="{esc(shorten(card.url, 300))}">{esc(shorten(_host(card.url), 40))}</span>'
    return f'<footer>{told}{host}<code title="uid {esc(card.uid)}">{esc(card.uid[:8])}</code></footer>'


def _text(card: Card, caption: Mapping[str, Any], reason: str | None, truth: Truth, policy: SelectConfig | None) -> str:
    origin, text = str(caption.get("origin")), str(caption.get("text") or "")
    name = origin if origin in ("web", "synthetic") else "human"
    shown = f"<bdi>{esc(shorten(text))}</bdi>" if text.strip() else "<i>no text</i>"
    is_kept, passes = reason == "kept", reason in PASSING
    if reason and not passes and text.strip():
        shown = f"<del>{shown}</del>"
    fate = ""
    if reason:
        told = f'<span class="{"kept" if is_kept else "dropped"}">{"✓" if is_kept else "✕"} '
        fate = f"{told}{esc(_why(caption, reason, policy))}</span>"
    is_right = truth.about(card.url, text, origin) if text.strip() else None
    erred = is_right is not None and reason in ("kept", "below_threshold") and is_right != is_kept
    score, own = _scores(caption, policy)
    line = _meter(score, name, None if policy is None else policy.threshold) + fate + _badge(is_right, filter_erred=erred) + own
    others = {other.get("captioner") for other in card.captions if other.get("captioner")}
    writer = f"<small>{esc(str(caption.get('captioner')))}</small> " if len(others) > 1 and caption.get("captioner") else ""
    return f'<div class="text"><p><span class="tag {name}">{name}</span>{writer}{shown}</p><p class="fate-line">{line}</p></div>'


def _scores(caption: Mapping[str, Any], policy: SelectConfig | None) -> tuple[float | None, str]:
    """What a text is judged by, and, of several filters, each one's own."""
    found = [one for one in caption.get("scores") or [] if one]
    if policy is None:
        policy = SelectConfig() if any(one.get("itm") is not None for one in found) else SelectConfig(min_itc=0)
    own = own_scores(found, policy)
    if not own:
        return None, ""
    told = " · ".join(f"{esc(name)} {_signed(value)}{_held_against(policy, name, value)}" for name, value in own.items())
    return judged_score(own, policy), f"<small>{told}</small>" if len(own) > 1 else ""


def _held_against(policy: SelectConfig, name: str, value: float) -> str:
    """Where filters differ in it, the filter's own threshold."""
    least = policy.of(name).least
    sign = "≥" if np.float32(value) >= np.float32(least) else "&lt;"
    return f" {sign} {least:g}".replace("-", "−") if policy.differs else ""


def _signed(score: float) -> str:
    return f"{score:.2f}".replace("-", "−")


def _why(caption: Mapping[str, Any], reason: str, policy: SelectConfig | None) -> str:
    if reason == "rule":
        return rule_words(str(caption.get("rule")))
    if reason == "below_threshold" and policy is not None:
        return "too few filters believe it" if policy.differs else f"below {policy.threshold:g}"
    return REASON.get(reason, spaced(reason))


def _absent_web(card: Card) -> str:
    """A row's web text where it is no candidate: there was none, or the row takes no part."""
    text = f"<bdi>{esc(shorten(card.text))}</bdi>" if card.text else "<i>no text</i>"
    told = '<p class="fate-line"><span class="dropped">✕ the page gave no text</span></p>' if card.status == "ok" else ""
    return f'<div class="text"><p><span class="tag web">web</span>{text}</p>{told}</div>'


def _meter(score: float | None, name: str, threshold: float | None) -> str:
    if score is None:
        return ""
    share = min(1.0, max(0.0, score))
    mark = f'<u style="left:{max(0.0, threshold) * 100:.0f}%"></u>' if threshold is not None else ""
    bar = f'<i class="{name}" style="width:{share * 100:.0f}%"></i>{mark}'
    return f'<span class="meter" aria-hidden="true">{bar}</span><b class="score">{_signed(score)}</b>'


def _badge(is_right: bool | None, *, filter_erred: bool = False) -> str:
    """Whether a text is true, where that is known; loud where the filter thought otherwise."""
    if is_right is None:
        return ""
    told = "true" if is_right else "false"
    return f'<span class="badge alarm">{told}: the filter erred</span>' if filter_erred else f'<span class="badge">{told}</span>'


def _picture(uri: str | None, alt: str) -> str:
    if uri is None:
        return '<div class="picture none">no picture</div>'
    return f'<div class="picture"><img src="{uri}" alt="{esc(shorten(alt, 120))}"></div>'


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _true(one: Mapping[str, Any] | None) -> bool | None:
    value = one.get("true") if one else None
    return bool(value) if isinstance(value, bool | int) else None


def _likeness(row_id: str, first: str, pairs: Mapping[tuple[str, str], tuple[float | None, str]]) -> str:
    if row_id == first:
        return "first row"
    cosine, kind = pairs.get((first, row_id)) or pairs.get((row_id, first)) or (None, "")
    if kind == "sha256":
        return "same bytes"
    return f"cosine {cosine:.3f}" if cosine is not None else "by way of another"
