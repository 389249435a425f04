"""The funnel as a picture: from URLs over texts to the data set, each loss with its reason.

Takes the counts of a scan; opens no file.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from capfilt.config.select import SelectConfig
from capfilt.report.scan import PASSING, Scan
from capfilt.report.words import REASON, STATUS, count, esc, percent, rule_words, spaced

DOWNLOAD = ("download_failed", "download_blocked", "opted_out", "image_invalid")
MODELS = ("caption_failed", "filter_failed")


@dataclass(frozen=True)
class Flow:
    """A strand of a step: `rows`, `web` or `synthetic`, and how much of it goes on."""

    kind: str
    size: int
    goes_on: int


@dataclass(frozen=True)
class Loss:
    """What leaves after a step: `parts` break it down."""

    kind: str
    size: int
    why: str
    parts: str = ""


@dataclass(frozen=True)
class Step:
    """One bar of the funnel."""

    name: str
    unit: str
    flows: tuple[Flow, ...]
    losses: tuple[Loss, ...] = ()

    @property
    def size(self) -> int:
        return sum(flow.size for flow in self.flows)


def steps(scan: Scan, policy: SelectConfig | None) -> list[Step]:
    """As many steps as the run took; neighbouring steps of one unit add up to the last row."""
    lost = {name: scan.status[name] for name in scan.status if name != "ok"}
    at_download = sum(lost.get(name, 0) for name in DOWNLOAD)
    at_rules, at_models = lost.get("rule_rejected", 0), sum(lost.get(name, 0) for name in MODELS)
    downloaded, healthy = scan.rows - at_download, scan.status["ok"]
    found = [
        _rows("URLs", "rows read", scan.rows, downloaded, _losses(scan, DOWNLOAD)),
        _rows("Downloaded", "pictures", downloaded, downloaded - at_rules, _losses(scan, ("rule_rejected",))),
        _rows("Screened", "pictures that take part", downloaded - at_rules, healthy, _losses(scan, MODELS) if at_models else ()),
    ]
    web, synthetic = scan.texts["web"], scan.texts["synthetic"]
    if not scan.has_candidates:
        return found
    if not scan.has_selection:
        flows = (Flow("web", web.count, web.count), Flow("synthetic", synthetic.count, synthetic.count))
        return [*found, Step("Texts", "candidates, not decided yet", flows)]
    texts = tuple(Flow(name, scan.texts[name].count, scan.texts[name].passing) for name in ("web", "synthetic"))
    passing = tuple(Flow(name, scan.texts[name].passing, scan.texts[name].passing) for name in ("web", "synthetic"))
    found.append(Step("Candidate texts", "web and synthetic", texts, tuple(_text_losses(scan, _below(policy)))))
    found.append(Step("Texts that pass", "the filter and the text rules", passing))
    rows_lost = tuple(
        Loss("rows", size, why)
        for name, why in (("duplicate", "are copies of a kept picture"), ("contaminated", "show an evaluation picture"))
        if (size := scan.rows_lost[name])
    )
    found.append(_rows("Their pictures", "with at least one such text", scan.rows_passing, scan.rows_kept, rows_lost))
    found.append(_rows("Data set", _kept(scan), scan.rows_kept, scan.rows_kept, ()))
    return found


def funnel(all_steps: Sequence[Step]) -> str:
    """An ordered list that reads well without the picture; the flow beside it is drawn to one scale."""
    top = max([step.size for step in all_steps] + [1])
    items = []
    for index, step in enumerate(all_steps):
        after = all_steps[index + 1] if index + 1 < len(all_steps) else None
        losses = "".join(
            f'<p class="loss"><b>− {count(loss.size)}</b> {_tag(loss.kind)}{esc(loss.why)}'
            + (f'<span class="muted"> · {esc(loss.parts)}</span>' if loss.parts else "")
            + "</p>"
            for loss in step.losses
        )
        strands = [flow for flow in step.flows if flow.kind != "rows"]
        split = " · ".join(f'<span class="{flow.kind}-ink">{count(flow.size)} {flow.kind}</span>' for flow in strands)
        items.append(
            f'<li><div class="name"><b>{esc(step.name)}</b> <span class="muted">{esc(step.unit)}</span></div>'
            f'<div class="size"><b class="big">{count(step.size)}</b>{f"<small>{split}</small>" if split else ""}</div>'
            f'<div class="flow">{_drawing(step, after, top)}</div>'
            f'<div class="losses">{losses}</div></li>'
        )
    gradients = "".join(
        f'<linearGradient id="fade-{kind}" x1="0" y1="0" x2="0" y2="1"><stop class="stop-{kind}" offset="0" stop-opacity=".45"/>'
        f'<stop class="stop-{kind}" offset="1" stop-opacity="0"/></linearGradient>'
        for kind in ("rows", "web", "synthetic")
    )
    defs = f'<svg width="0" height="0" class="defs" aria-hidden="true"><defs>{gradients}</defs></svg>'
    return f'{defs}<ol class="funnel">{"".join(items)}</ol>'


def _drawing(step: Step, after: Step | None, top: int) -> str:
    """A bar, below it what goes on (into the next bar) and what is lost (fading). The page stretches it, so no text."""
    scale = 1000 / top
    same = after is not None and [flow.kind for flow in after.flows] == [flow.kind for flow in step.flows]
    bars, below, left, left_below = [], [], 0.0, 0.0
    for flow in step.flows:
        size, on = flow.size * scale, flow.goes_on * scale
        bars.append(f'<rect class="{flow.kind}" x="{left:.1f}" y="0" width="{size:.1f}" height="10"/>')
        if same:
            below.append(_ribbon(flow.kind, (left, left + on), (left_below, left_below + on)))
        if flow.size > flow.goes_on:
            edges = f"{left + on:.1f},0 {left + size:.1f},0 {left + size + 8:.1f},72 {left + on + 8:.1f},72"
            below.append(f'<polygon fill="url(#fade-{flow.kind})" points="{edges}"/>')
        left, left_below = left + size, left_below + on
    if after is not None and not same:
        # Pictures become texts, or texts pictures: the strands of the next bar share what goes on.
        start, under = 0.0, 0.0
        for flow in after.flows:
            end = start + left_below * flow.size / max(1, after.size)
            below.append(_ribbon(flow.kind, (start, end), (under, under + flow.size * scale)))
            start, under = end, under + flow.size * scale
    drawn = f'<svg class="bars" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">{"".join(bars)}</svg>'
    if after is not None:
        drawn += (
            f'<svg class="ribbons" viewBox="0 0 1000 100" preserveAspectRatio="none" aria-hidden="true">{"".join(below)}</svg>'
        )
    return drawn


def _ribbon(kind: str, above: tuple[float, float], below: tuple[float, float]) -> str:
    return (
        f'<path class="{kind} ribbon" d="M{above[0]:.1f},0 C{above[0]:.1f},50 {below[0]:.1f},50 {below[0]:.1f},100 '
        f'L{below[1]:.1f},100 C{below[1]:.1f},50 {above[1]:.1f},50 {above[1]:.1f},0 Z"/>'
    )


def _rows(name: str, unit: str, size: int, goes_on: int, losses: Sequence[Loss]) -> Step:
    return Step(name, unit, (Flow("rows", size, goes_on),), tuple(losses))


def _losses(scan: Scan, names: Sequence[str]) -> tuple[Loss, ...]:
    return tuple(
        Loss("rows", scan.status[name], STATUS.get(name, spaced(name)), _parts(scan.errors.get(name, Counter())))
        for name in names
        if scan.status[name]
    )


def _below(policy: SelectConfig | None) -> str:
    if policy is None:
        return "scored by the filter"
    if not policy.differs:
        return f"scored below {policy.threshold:g} by the filter"
    return (
        f"scored below the {'threshold of a filter' if policy.combine == 'min' else 'thresholds of half of the filters or more'}"
    )


def _text_losses(scan: Scan, below: str) -> list[Loss]:
    found = []
    for name in ("web", "synthetic"):
        texts = scan.texts[name]
        for reason, size in texts.reasons.most_common():
            if reason in PASSING or not reason:
                continue
            why = below if reason == "below_threshold" else REASON.get(reason, spaced(reason))
            rules = texts.rules.most_common(3) if reason == "rule" else []
            parts = " · ".join(f"{rule_words(rule)}: {count(number)}" for rule, number in rules)
            found.append(Loss(name, size, why, parts))
    return found


def _kept(scan: Scan) -> str:
    origins = scan.kept_origins
    parts = [(origins["both"], "with both texts"), (origins["web"], "web only"), (origins["synthetic"], "synthetic only")]
    return "rows: " + ", ".join(f"{count(size)} {name}" for size, name in parts if size) if scan.rows_kept else "rows"


def _parts(errors: Counter[str]) -> str:
    told = [f"{spaced(code)}: {count(size)}" for code, size in errors.most_common(5)]
    rest = sum(errors.values()) - sum(size for _, size in errors.most_common(5))
    return " · ".join([*told, f"others: {count(rest)}"] if rest else told)


def _tag(kind: str) -> str:
    return "" if kind == "rows" else f'<span class="tag {kind}">{kind}</span> '


def yield_share(scan: Scan) -> str:
    return percent(scan.rows_kept / scan.rows if scan.rows else None)
