"""What captioner and filter have in common, what that gained, and what it cost; nothing where they have nothing in common.

Facts of this run only: how much noise other weights would have found, it cannot know.
"""

from capfilt.report.facts import Facts, dig
from capfilt.report.scan import Scan
from capfilt.report.words import count, duration, esc, is_number, percent, spaced

OVERLOOKS = "a filter overlooks the errors of its own captioner (BLIP, Table 4: 8 % instead of 25 % noise found)"


def told(facts: Facts, counted: Scan) -> tuple[str, str, str] | None:
    """Title, lead and body of a section, as HTML."""
    scored = facts.scored_round
    pairing = facts.pairings.get(scored.number) if scored else None
    if scored is None or pairing is None or "shared" not in (pairing.get("trunk"), pairing.get("weights")):
        return None
    title = "One image encoder for captioner and filter"
    lead = "Captioner and filter have the same image encoder; their text sides were fine-tuned apart."
    if pairing.get("weights") == "shared":
        title = "Captioner and filter are the same weights"
        lead = f"<b>Beware: {OVERLOOKS}.</b> The pipeline allows it (<code>filter.allow_shared_weights</code>)."
    if pairing.get("fused"):
        lead += " Both ran as one, and each picture was decoded and encoded once for both."
    elif pairing.get("apart"):
        lead += f" They ran apart all the same: {esc(pairing['apart'])}."
    lead += " The filter shares the captioner’s blind spots in pictures, which costs noise found; beside the speed, that is here:"
    rows = [*_speed(facts, counted, scored.number), *_noise(facts, counted)]
    body = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return title, lead, f'<table class="numbers"><tbody>{body}</tbody></table>'


def _speed(facts: Facts, counted: Scan, number: int) -> list[tuple[str, str]]:
    seconds = sum(phase.seconds for phase in facts.phases if phase.name == f"round-{number}/candidates")
    if not seconds:
        return []
    pictures = counted.status["ok"]
    return [
        ("Pictures captioned and filtered", count(pictures)),
        ("Time, over every start of this run", duration(seconds)),
        ("Pictures per second, loading the models counted", f"{pictures / seconds:.1f}"),
    ]


def _noise(facts: Facts, counted: Scan) -> list[tuple[str, str]]:
    quality = next((one.metrics.get("filter_quality") for one in reversed(facts.rounds) if one.metrics), None)
    rows = []
    for origin, texts in counted.texts.items():
        if texts.noise_ratio is not None and facts.threshold is not None:
            rows.append((f"Noise found, {origin} texts", percent(texts.noise_ratio)))
        for measure in ("roc_auc", "precision", "recall"):
            value = dig(quality, origin, measure)
            if is_number(value):
                name = {"roc_auc": "ROC AUC"}.get(measure, spaced(measure))
                rows.append((f"{name} of the filter by the truth, {origin} texts", f"{value:.3f}"))
    return rows
