"""SVG pictures of numbers, drawn by hand: mirrored histograms, curves, losses, dots with intervals, flows.

Takes plain lists, gives strings. Colours are classes of report.css, so that light, dark and print all work; knows no run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from capfilt.report.words import count, esc

Points = Sequence[tuple[float, float]]
Interval = tuple[float, float] | None
WIDTH = 440  # drawn at about the size at which it is shown on a phone, so that labels stay legible


@dataclass(frozen=True)
class Frame:
    """A plotting area inside an SVG, with its ranges of values."""

    left: float
    top: float
    right: float
    bottom: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / ((high - low) or 1) * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / ((high - low) or 1) * (self.bottom - self.top)

    def line(self, points: Points, style: str) -> str:
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return f'<polyline class="{style}" points="{path}"/>' if points else ""


def svg(width: float, height: float, title: str, body: str) -> str:
    """An accessible picture: `title` is what a screen reader says."""
    return f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{esc(title)}">{body}</svg>'


def label(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{esc(text)}</text>'


def mirrored(web: Sequence[int], synthetic: Sequence[int], threshold: float | None, score: str = "ITM score") -> str:
    """Counts per score bin in [0, 1]: web upwards, synthetic downwards, on a logarithmic scale where an empty bin has no bar."""
    height, frame = 330, Frame(44, 26, WIDTH - 10, 286, (0, 1), (-1, 1))
    top = math.log10(1 + max([*web, *synthetic, 9]))
    ticks = [10**power for power in range(math.ceil(top) + 1) if math.log10(1 + 10**power) <= top]
    body = []
    for tick in ticks:
        for sign in (1, -1):
            y = frame.y(sign * math.log10(1 + tick) / top)
            body.append(f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            if tick > 1 or len(ticks) < 3:
                body.append(label(frame.left - 6, y + 4, _short(tick), "tick", "end"))
    middle = frame.y(0)
    for name, counts, sign in (("web", web, 1), ("synthetic", synthetic, -1)):
        for index, value in enumerate(counts):
            if value:
                left, right = frame.x(index / len(counts)), frame.x((index + 1) / len(counts))
                size = math.log10(1 + value) / top * (middle - frame.top)
                y = middle - size if sign > 0 else middle
                faint = " faint" if threshold is not None and (index + 0.5) / len(counts) < threshold else ""
                place = f'x="{left + 0.5:.1f}" y="{y:.1f}" width="{right - left - 1:.1f}" height="{size:.1f}"'
                body.append(f'<rect class="{name}{faint}" {place}/>')
    body.append(f'<line class="axis" x1="{frame.left}" x2="{frame.right}" y1="{middle:.1f}" y2="{middle:.1f}"/>')
    body.append(_score_axis(frame, height, score))
    body.append(_threshold(frame, threshold))
    body.append(
        # Outside the frame: the tallest bars stand at both ends of it. At the end where the threshold's label is not.
        (
            label(frame.left, 14, "web texts ↑", "key web-ink")
            if threshold is None or threshold > 0.3
            else label(frame.right, 14, "web texts ↑", "key web-ink", "end")
        )
        + label(frame.left, height - 6, "synthetic texts ↓", "key synthetic-ink")
    )
    return svg(WIDTH, height, "Histogram of filter scores, web texts upwards, synthetic texts downwards", "".join(body))


def keep_rates(web: Points, synthetic: Points, threshold: float | None) -> str:
    """Share of texts kept (y) when the threshold is x."""
    height, frame = 330, Frame(44, 26, WIDTH - 10, 286, (0, 1), (0, 1))
    body = [_percent_grid(frame), _score_axis(frame, height, "threshold")]
    body.append(_threshold(frame, threshold))
    for name, points in (("web", web), ("synthetic", synthetic)):
        body.append(frame.line(points, f"curve {name}-line"))
        if threshold is not None and points:
            share, rival = _near(points, threshold) or 0.0, _near(synthetic if name == "web" else web, threshold)
            x, y = frame.x(max(0.0, threshold)), frame.y(share)
            body.append(f'<circle class="{name} ring" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
            # Curves fall, so there is room above to the right of the upper one and below to the left of the lower one.
            is_upper = rival is None or share > rival or (share == rival and name == "synthetic")
            at = (x + 9, y - 8, "start") if is_upper and threshold <= 0.7 else (x - 9, y + 18, "end")
            if (
                is_upper and y < frame.top + 14 and 0.25 <= threshold <= 0.6
            ):  # where the threshold's own label stands to the right
                at = (x - 9, y - 8, "end")
            if threshold < 0.25:  # no room to the left, and the threshold's own label above
                at = (x + 9, y + (18 if is_upper else 38), "start")
            body.append(label(at[0], at[1], f"{name} {share * 100:.0f} %", f"key halo {name}-ink", at[2]))
    return svg(WIDTH, height, "Share of texts kept against the threshold, for web and synthetic texts", "".join(body))


def _near(points: Points, x: float) -> float | None:
    """The height of the curve at `x`, between two of its points on the line that joins them."""
    if not points:
        return None
    before = max((point for point in points if point[0] <= x), default=points[0], key=lambda point: point[0])
    after = min((point for point in points if point[0] >= x), default=points[-1], key=lambda point: point[0])
    width = after[0] - before[0]
    return before[1] + (after[1] - before[1]) * ((x - before[0]) / width if width else 0.0)


def losses(title: str, before: Points, after: Points, names: tuple[str, str]) -> str:
    """Two loss curves over steps, raw and smoothed: the earlier round dashed, the later one solid."""
    width, height = 340, 210
    smooth = [_smooth(_thin(series)) for series in (before, after)]
    values = [y for series in smooth for _, y in series]
    raw = [_thin(series) for series in (before, after)]
    low, high = min(values), max(values)
    pad = (high - low) * 0.06 or 0.1
    last = max(x for series in raw for x, _ in series)
    ticks = _nice(low - pad, high + pad, 4)
    frame = Frame(44, 28, width - 12, height - 30, (0, last), (min(low - pad, ticks[0]), max(high + pad, ticks[-1])))
    body = [label(0, 14, title, "title")]
    for tick in ticks:
        y = frame.y(tick)
        body.append(f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(label(frame.left - 6, y + 4, f"{tick:g}", "tick", "end"))
    for tick in _nice(0, last, 4):
        if tick <= last:
            body.append(label(frame.x(tick), height - 12, _short(tick), "tick", "middle"))
    body.append(label(frame.right, 14, "step", "tick", "end"))
    for series, soft, style in zip(raw, smooth, ("early", "late"), strict=True):
        inside = [(x, min(max(y, frame.y_range[0]), frame.y_range[1])) for x, y in series]
        body += [frame.line(inside, f"raw {style}"), frame.line(soft, f"curve {style}")]
    told = ", ".join(f"{name} ends at {soft[-1][1]:.3g}" for name, soft in zip(names, smooth, strict=True) if soft)
    return svg(width, height, f"{title}: {told}", "".join(body))


def dots(before: float | None, after: float | None, ranges: tuple[Interval, Interval], top: float) -> str:
    """One measure before (hollow) and after (full) on a line from 0 to `top`, whiskers for intervals."""
    frame = Frame(8, 0, 192, 26, (0, top), (0, 1))
    body = [f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="13" y2="13"/>']
    if before is not None and after is not None:
        body.append(f'<line class="move" x1="{frame.x(before):.1f}" x2="{frame.x(after):.1f}" y1="13" y2="13"/>')
    for value, ends, style, y in ((before, ranges[0], "early", 8), (after, ranges[1], "late", 18)):
        if ends is not None:
            reach = f'x1="{frame.x(ends[0]):.1f}" x2="{frame.x(min(ends[1], top)):.1f}"'
            body.append(f'<line class="whisker {style}" {reach} y1="{y}" y2="{y}"/>')
        if value is not None:
            body.append(f'<circle class="dot {style}" cx="{frame.x(value):.1f}" cy="13" r="5"/>')
    return f'<svg class="dots" viewBox="0 0 200 26" aria-hidden="true">{"".join(body)}</svg>'


def _threshold(frame: Frame, threshold: float | None) -> str:
    if threshold is None:
        return ""
    x = frame.x(max(0.0, threshold))  # of a cosine it may lie below the frame
    side, shift = ("end", -5) if threshold > 0.6 else ("start", 5)
    return f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top - 8}" y2="{frame.bottom}"/>' + label(
        x + shift, frame.top - 11 + 2, f"threshold {threshold:g}", "tick strong halo", side
    )


def _score_axis(frame: Frame, height: float, name: str) -> str:
    ticks = "".join(label(frame.x(value / 4), frame.bottom + 18, f"{value / 4:g}", "tick", "middle") for value in range(5))
    return ticks + label((frame.left + frame.right) / 2, height - 8, name, "tick", "middle")


def _percent_grid(frame: Frame) -> str:
    return "".join(
        f'<line class="grid" x1="{frame.left}" x2="{frame.right}" y1="{frame.y(share):.1f}" y2="{frame.y(share):.1f}"/>'
        + label(frame.left - 6, frame.y(share) + 4, f"{share * 100:.0f} %", "tick", "end")
        for share in (0, 0.25, 0.5, 0.75, 1)
    )


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 10 * size or (value >= size and value % size == 0):
            return f"{value / size:g} {letter}"
    return count(value)


def _nice(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from below `low` to at least … inside the range, about `wanted` of them."""
    span = (high - low) or 1
    step = 10 ** math.floor(math.log10(span / wanted))
    step = min((step * factor for factor in (1, 2, 5, 10)), key=lambda one: abs(span / one - wanted))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def _thin(points: Points, limit: int = 160) -> list[tuple[float, float]]:
    """At most `limit` points, each the mean of its neighbours."""
    size = math.ceil(len(points) / limit) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _smooth(points: Points) -> list[tuple[float, float]]:
    """A centred mean over a tenth of the curve: unlike a running average it does not lag."""
    half = max(1, len(points) // 20) if len(points) > 4 else 0
    out = []
    for index, (x, _) in enumerate(points):
        near = points[max(0, index - half) : index + half + 1]
        out.append((x, sum(y for _, y in near) / len(near)))
    return out
