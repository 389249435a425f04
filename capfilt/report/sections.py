"""The sections of the report, in the order of the line, each with a sentence that says what one sees.

Words and order only: numbers come from `scan` and `facts`, drawings from `charts`, `funnel`, `compare` and `cards`.
"""

import shlex
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.config.select import SelectConfig
from capfilt.config.train import Losses
from capfilt.report import cards, charts, compare, pairing
from capfilt.report.choice import column_where, pictures
from capfilt.report.facts import Facts, Round, dig
from capfilt.report.funnel import funnel, steps, yield_share
from capfilt.report.scan import FINE, ORIGINS, ROWS_AT_ONCE, Scan
from capfilt.report.thumbs import Thumbs
from capfilt.report.truth import Truth
from capfilt.report.words import SCORE, SCORE_MEANING, count, duration, esc, is_number, percent, plural, spaced
from capfilt.run import files
from capfilt.stages.chunks import open_parquet

BINS = 40
GROUPS_SHOWN = 6
HELDOUT_SHOWN = 9


@dataclass(frozen=True)
class Section:
    """`lead` and `body` are HTML."""

    anchor: str
    link: str
    title: str
    lead: str
    body: str = ""


def all_sections(facts: Facts, counted: Scan, thumbs: Thumbs) -> list[Section]:
    """Every section, those without data reduced to a sentence. Order matters: thumbnails share one budget."""
    return [
        _funnel(facts, counted),
        _scores(facts, counted),
        _quality(facts),
        *_pairing(facts, counted),
        _cards(facts, counted, thumbs),
        _duplicates(facts, counted, thumbs),
        _training(facts),
        _compared(facts, thumbs),
        _time(facts),
    ]


def headline(facts: Facts, counted: Scan) -> str:
    """What was run, what came out, and a few numbers."""
    mood, sentence = compare.verdict(facts)
    told = [f"seed {facts.seed}"]
    if facts.started is not None:
        told.insert(0, facts.started.strftime("%d %B %Y, %H:%M UTC").lstrip("0"))
    last = facts.rounds[-1].number if facts.rounds else 0
    told += [f"round {last} is the last one made"] if last else []
    versions = dig(facts.plan, "versions")
    told += [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, dict) else []
    told += [f"fingerprint {facts.plan['fingerprint']}"] if facts.plan.get("fingerprint") else []
    tiles = "".join(
        f'<div class="tile"><dt>{name}</dt><dd>{value}<p>{told}</p></dd></div>' for name, value, told in _tiles(facts, counted)
    )
    return (
        f'<header class="top"><p class="muted eyebrow">capfilt report</p><h1>{esc(facts.name)}</h1>'
        f'<p class="muted facts">{" · ".join(esc(one) for one in told)}</p><p class="verdict {mood}">{sentence}</p>'
        f'<dl class="tiles">{tiles}</dl></header>'
    )


def footer(facts: Facts) -> str:
    """How to go on from here."""
    run = esc(shlex.quote(facts.tables))
    commands = [
        (
            "Decide again with another threshold: seconds, no model",
            f"capfilt select {run} --name strict --set {esc(shlex.quote(_stricter(facts.policy or SelectConfig())))} --write",
        ),
        ("Follow one pair through the whole line; its id is on its card", f"capfilt explain {run} UID"),
        ("Write this page again", f"capfilt report {run}"),
    ]
    rows = "".join(f"<div><dt>{told}</dt><dd><code>{command}</code></dd></div>" for told, command in commands)
    return f'<footer class="end"><h2>From here</h2><dl>{rows}</dl></footer>'


def _stricter(policy: SelectConfig) -> str:
    """A `--set` that keeps fewer."""
    name, (score, least) = next(((name, own.threshold) for name, own in policy.by.items()), ("", policy.usual))
    more = f"min_{score}: {round(least + 0.4 * (1 - least), 2):g}"  # 0.7 instead of BLIP's 0.5
    if not name:
        return "select." + more.replace(": ", "=")
    return f"select.by.{name}={{{more}}}" if "." not in name else f"select.{more.replace(': ', '=')}"


def _tiles(facts: Facts, counted: Scan) -> list[tuple[str, str, str]]:
    rows = count(counted.rows)
    if counted.has_selection:
        found = [
            ("Data set", count(counted.rows_kept), f"pictures from {rows} URLs ({yield_share(counted).replace(' ', '&nbsp;')})")
        ]
    else:
        found = [("Pool", count(counted.status["ok"]), f"healthy pictures from {rows} URLs")]
    for name, texts in counted.texts.items():
        if texts.noise_ratio is not None and facts.threshold is not None:
            ratio = percent(texts.noise_ratio, 0)
            found.append((f'<span class="{name}-ink">Noise, {name}</span>', ratio, "of the texts rejected by the filter"))
    quality = dig((facts.after or facts.before).metrics, "filter_quality", "synthetic") if facts.before else None
    before, after = dig(quality, "true_before"), dig(quality, "true_after")
    if isinstance(before, float) and isinstance(after, float):
        found.append(("True synthetic texts", f"{before * 100:.0f} → {after * 100:.0f} %", "before and after the filter"))
    if facts.phases:
        found.append(("Time", duration(sum(phase.seconds for phase in facts.phases)), f"in {plural(len(facts.phases), 'phase')}"))
    return found


def _funnel(facts: Facts, counted: Scan) -> Section:
    if not counted.rows:
        return Section("funnel", "Funnel", "The funnel", "No rows yet: the run has not committed a chunk.")
    lead = f"From {count(counted.rows)} URLs to what is kept, all to one scale. Neighbouring bars add up to the last row."
    if counted.status["ok"] == 0:
        lead = f"None of the {count(counted.rows)} URLs gave a usable picture; the reasons are below."
    elif counted.has_selection and not counted.rows_kept:
        why = dig(facts.scored_round.summary, "nothing_kept") if facts.scored_round is not None else None
        told = f": {esc(why)}." if why else ". See the scores below before lowering the threshold."
        lead = f"The data set is empty, no text of any picture was kept{told}"
    elif not counted.has_selection:
        lead += " This run ended before <code>select</code>, so nothing is kept or rejected yet."
    waiting = sum(map(_rows, facts.pool)) - counted.rows if counted.has_candidates else 0
    if waiting > 0:
        lead += f" {plural(waiting, 'more row')} of the pool wait for this round or were set aside with their chunk."
    return Section("funnel", "Funnel", "From the web to the data set", lead, funnel(steps(counted, facts.policy)))


def _rows(path: str) -> int:
    with open_parquet(path) as file:
        return int(file.metadata.num_rows)


def _scores(facts: Facts, counted: Scan) -> Section:
    title, threshold = "What the filter thinks", facts.threshold
    scored = {name: texts for name, texts in counted.texts.items() if texts.scored}
    if not scored:
        why = f"No text has its {SCORE[facts.score]}: this run ended before <code>filter</code>, or its filter gives none."
        return Section("scores", "Scores", title, why)
    bins = [texts.bins.reshape(BINS, FINE // BINS).sum(axis=1).tolist() for texts in counted.texts.values()]
    curves = []
    for texts in counted.texts.values():
        above = [*texts.bins[::-1].cumsum()[::-1].tolist(), 0]
        curves.append([(at / FINE, above[at] / texts.scored) for at in range(0, FINE + 1, 10)] if texts.scored else [])
    lead = f"The filter gives every text a score: {SCORE_MEANING[facts.score]}."
    if threshold is not None:
        parts = [f'{percent(texts.noise_ratio)} of the <b class="{name}-ink">{name}</b> texts' for name, texts in scored.items()]
        lead += f" At the threshold of {threshold:g} it rejects {' and '.join(parts)}. That is the noise ratio."
    figures = _figure(
        charts.mirrored(bins[0], bins[1], threshold, SCORE[facts.score]),
        f"Texts per score, in steps of {1 / BINS:g}, counted on a logarithmic scale. Pale bars are rejected."
        + (" A cosine below 0 stands at 0." if facts.score == "itc" else ""),
    ) + _figure(
        charts.keep_rates(curves[0], curves[1], threshold),
        "What another threshold would keep. Deciding again needs no model: see the end of this page.",
    )
    body = f'<div class="pair">{figures}</div>'
    if counted.filters:
        how = {"mean": "the mean of the filters", "min": "the least of them", "vote": "what more than half of them reach"}
        combine = "mean" if facts.policy is None else facts.policy.combine
        lead += f" There are {len(counted.filters)} filters, combined by {combine}: the score is {how[combine]}."
        if facts.policy is not None and facts.policy.differs:
            judged = ", ".join(f"{esc(name)} by {facts.policy.of(name)}" for name in counted.filters)
            lead += f" Each has a threshold of its own: {judged}."
        each = _each_filter(counted, facts.policy)
        body += f'<h3>Each filter by itself</h3><div class="small-multiples">{each}</div>'
    return Section("scores", "Scores", title, lead, body)


def _each_filter(counted: Scan, policy: SelectConfig | None) -> str:
    out = []
    for name, own in counted.filters.items():
        score, least = (policy or SelectConfig()).of(name)
        bins = [own[origin].bins.reshape(BINS, FINE // BINS).sum(axis=1).tolist() for origin in ORIGINS]
        told = [
            f'{percent(own[origin].noise_ratio, 0)} of the <b class="{origin}-ink">{origin}</b>'
            for origin in ORIGINS
            if own[origin].scored
        ]
        rejects = f" rejects {' and '.join(told)} texts." if policy is not None and told else " gave no such score."
        drawn = charts.mirrored(bins[0], bins[1], None if policy is None else least, SCORE[score])
        out.append(_figure(drawn, f"<b>{esc(name)}</b>{rejects}"))
    return "".join(out)


def _figure(drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def _quality(facts: Facts) -> Section:
    last = next((one for one in reversed(facts.rounds) if isinstance(dig(one.metrics, "filter_quality"), dict)), None)
    title = "Is the filter right?"
    if last is None:
        why = "Nobody knows the truth about these texts, so the filter’s judgement cannot be checked here."
        return Section("quality", "Filter", title, why)
    quality = last.metrics["filter_quality"]
    lead = (
        f"Compared with the truth, which was kept aside: texts of round {last.number}, scored by "
        f"{esc(quality.get('scored_by') or 'the filter')}. A text is true when everything it states holds."
    )
    true, size = dig(quality, "dataset", "all", "true_share"), dig(quality, "dataset", "all", "count")
    if is_number(true) and is_number(size):
        lead += f" Of the {count(size)} texts in the data set <b>{percent(true)}</b> are true."
    kinds = compare.noise_kind_table(quality)
    body = f"<div>{compare.quality_table(quality)}</div>"
    if kinds:
        body = f'<div class="pair tables">{body}<div>{kinds}</div></div>'
    if missed := compare.missed_table(quality):
        told = "Of the false texts that a captioner wrote, the share that a filter lets pass; beside it, of the true ones."
        body += f'<h3>Whose errors each filter lets pass</h3><p class="muted">{told}</p>{missed}'
    return Section("quality", "Filter", title, lead, body)


def _pairing(facts: Facts, counted: Scan) -> list[Section]:
    """Only where captioner and filter have something in common."""
    told = pairing.told(facts, counted)
    return [] if told is None else [Section("pairing", "One encoder", *told)]


def _cards(facts: Facts, counted: Scan, thumbs: Thumbs) -> Section:
    chosen, title = counted.choice.cards(), "Accepted and rejected"
    if not chosen:
        why = "No pictures were asked for." if counted.rows and not counted.choice.limit else "There is no picture to show."
        return Section("cards", "Pictures", title, why)
    truth = Truth.of(facts.path("evaluate", "truth"), (card.url for card in chosen))
    images = pictures(files.join(facts.tables, "pool"), [card.row_id for card in chosen])
    body = cards.card_sections(chosen, images, thumbs, truth, facts.policy)
    lead = (
        f"{plural(len(chosen), 'picture')} chosen by a hash of their ids, a few of every fate. Rejected texts are struck "
        "through; the mark on each bar is the threshold."
    )
    if truth.by_url:
        lead += " A box says what is true; where it is red, the filter thought otherwise."
    if thumbs.left_out:
        lead += f" {plural(thumbs.left_out, 'picture')} left out to keep this file small."
    return Section("cards", "Pictures", title, lead, body)


def _duplicates(facts: Facts, counted: Scan, thumbs: Thumbs) -> Section:
    title = "Duplicates"
    if not counted.has_selection:
        return Section(
            "duplicates", "Duplicates", title, "Duplicates were not looked for: this run ended before <code>select</code>."
        )
    if not counted.duplicates:
        return Section(
            "duplicates",
            "Duplicates",
            title,
            "No picture was found twice."
            if facts.config.get("dedup")
            else "Duplicates were not looked for: the run has no <code>dedup</code> section.",
        )
    groups = sorted(counted.groups.items(), key=lambda item: (-min(len(item[1]), 3), item[0]))[:GROUPS_SHOWN]
    shown = [(first, others[:3]) for first, others in groups]
    ids = {row_id for first, others in shown for row_id in (first, *others)}
    scored = facts.scored_round
    survivors: set[str] = set()
    if scored and scored.selection:
        survivors = {row_id for row_id, flag in column_where(scored.selection, "row_id", ids, "survivor").items() if flag}
    body = cards.duplicate_groups(shown, _pairs(scored, ids), pictures(files.join(facts.tables, "pool"), ids), survivors, thumbs)
    lead = (
        f"{plural(counted.duplicates, 'row')} of the pool {'repeats' if counted.duplicates == 1 else 'repeat'} an earlier one, "
        "by equal bytes or by the filter’s image embedding. Of each group at most one row survives."
    )
    return Section("duplicates", "Duplicates", title, lead, body)


def _pairs(scored: Round | None, ids: set[str]) -> dict[tuple[str, str], tuple[float | None, str]]:
    path = scored.folder / "dedup" / "pairs.parquet" if scored else None
    found: dict[tuple[str, str], tuple[float | None, str]] = {}
    if path is None or not path.is_file():
        return found
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            near = batch.filter(pc.is_in(batch["a"], value_set=_strings(ids)))
            for row in near.to_pylist():
                key = (row["a"], row["b"])
                if row["b"] in ids and found.get(key, (None, ""))[1] != "sha256":
                    found[key] = (row["cosine"], row["kind"])
    return found


def _strings(ids: set[str]) -> Any:
    import pyarrow as pa

    return pa.array(sorted(ids), pa.string())


def _training(facts: Facts) -> Section:
    title = "How the models learned"
    trained = [one for one in facts.rounds if any(one.logs.values())]
    if not trained:
        return Section(
            "training", "Training", title, "No model was trained: the run used given checkpoints, or ended before training."
        )
    first, last = trained[0], trained[-1]
    figures = []
    for training in dict.fromkeys([*first.logs, *last.logs]):
        for loss in Losses.model_fields:
            early, late = _series(first, training, loss), _series(last, training, loss) if last is not first else []
            if early or late:
                name = {"captioner": "captioner, fine-tuned", "filter": "filter, fine-tuned"}.get(
                    training, "pre-training" if training == "pretrain" else f"pre-training, {training}"
                )
                drawn = charts.losses(f"{loss.upper()} · {name}", early, late, (f"round {first.number}", f"round {last.number}"))
                figures.append(f"<figure>{drawn}</figure>")
    key = f'<span class="key-line early"></span> round {first.number}'
    if last is not first:
        key += f' &nbsp; <span class="key-line late"></span> round {last.number}'
    lead = f"Losses over steps, smoothed over a pale raw line; lower is better. {key}"
    return Section("training", "Training", title, lead, f'<div class="small-multiples">{"".join(figures)}</div>')


def _series(one: Round, training: str, loss: str) -> list[tuple[float, float]]:
    return [
        (line["step"], line[loss])
        for line in one.logs.get(training, ())
        if is_number(line.get("step")) and is_number(line.get(loss))
    ]


def _compared(facts: Facts, thumbs: Thumbs) -> Section:
    title, first, last = "Is the new model better?", facts.before, facts.after
    if first is None:
        return Section("compared", "Before / after", title, "No model was evaluated in this run.")
    pairs = dig(first.metrics, "retrieval", "pairs")
    held = f"{count(pairs)} held-out pairs" if is_number(pairs) else "held-out pairs"
    lead = f"The same measures on the same {held}, higher is better. Small numbers and whiskers are bootstrap intervals."
    body = f'<div class="scroll">{compare.measure_table(first, last)}</div>'
    path, shown = facts.path("evaluate", "heldout"), ""
    examples = [
        one
        for a_round in (first, last)
        if a_round
        for one in dig(a_round.metrics, "captioning", "examples") or []
        if isinstance(one, dict)
    ]
    if examples:
        images = column_where(path, "key", {str(one.get("key")) for one in examples}, "image") if path else {}
        shown = cards.heldout_captions(first, last, images, thumbs, HELDOUT_SHOWN)
    if shown:
        body += f"<h3>What the captioner says about pictures it never saw</h3>{shown}"
    return Section("compared", "Before / after", title, lead, body)


def _time(facts: Facts) -> Section:
    title = "Where the time went"
    if not facts.phases:
        return Section("time", "Time", title, "The run kept no record of its phases.")
    longest, total = max(phase.seconds for phase in facts.phases), sum(phase.seconds for phase in facts.phases)
    rows = []
    for phase in facts.phases:
        bar = f'<span class="bar"><i style="width:{phase.seconds / (longest or 1) * 100:.1f}%"></i></span>'
        rows.append(
            f'<tr><th scope="row">{esc(spaced(phase.name))}</th><td class="bar-cell">{bar}</td>'
            f"<td>{duration(phase.seconds)}</td><td>{percent(phase.seconds / (total or 1), 0)}</td></tr>"
        )
    heads = ("Phase", '<span class="hidden">Share of the longest</span>', "Time", "Share")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f'<table class="numbers time"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return Section("time", "Time", title, f"{duration(total)} in all, over every start of this run. Phases may overlap.", table)
