"""Small plots as inline SVG text: no script, no font, no file.

Colours are classes of :mod:`robopolicy.evaluation.style`, so dark mode works.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

__all__ = ["curve", "difference_bar", "histogram", "proportion_bars"]

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 12, 40


def proportion_bars(rows: Sequence[tuple[str, int, int, Sequence[float]]], *, target: float | None = None) -> str:
    """Horizontal bars of proportions with their intervals.

    Args:
        rows: (label, successes, n, (lower, upper)) each.
        target: Draws a dashed line at this rate.

    Returns:
        ``<svg>`` text.
    """
    pitch, x0, x1 = 46, 12, WIDTH - 16
    height = pitch * len(rows) + 34
    parts = []
    for row, (label, successes, n, (lower, upper)) in enumerate(rows):
        y = row * pitch + 22
        value = successes / n if n else 0.0
        end, low, high = (_scale(v, 0, 1, x0, x1) for v in (value, lower, upper))
        tip = f"{label}: {successes} of {n}, 95 % interval {lower:.3f} to {upper:.3f}"
        parts.append(
            f'<g><title>{escape(tip)}</title><text x="{x0}" y="{y - 6}" class="t strong">{escape(label)}</text>'
        )
        parts.append(f'<text x="{x1}" y="{y - 6}" class="t end">{successes}/{n} · {_percent(value)}</text>')
        parts.append(f'<rect x="{x0}" y="{y}" width="{x1 - x0}" height="14" rx="3" class="track"/>')
        parts.append(f'<rect x="{x0}" y="{y}" width="{max(end - x0, 0):.1f}" height="14" rx="3" class="s1"/>')
        parts.append(
            f'<path d="M{low:.1f} {y + 7}H{high:.1f}M{low:.1f} {y + 2}v10M{high:.1f} {y + 2}v10" class="whisker-halo"/>'
            f'<path d="M{low:.1f} {y + 7}H{high:.1f}M{low:.1f} {y + 2}v10M{high:.1f} {y + 2}v10" class="whisker"/></g>'
        )
    bottom = pitch * len(rows) + 4
    if target is not None:
        x = _scale(target, 0, 1, x0, x1)
        parts.append(f'<g><title>target {_percent(target)}</title><path d="M{x:.1f} 14V{bottom}" class="target"/></g>')
    for tick in (0, 0.25, 0.5, 0.75, 1):
        anchor = "start" if tick == 0 else "end" if tick == 1 else "middle"
        x = _scale(tick, 0, 1, x0, x1)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" class="t muted {anchor}">{tick * 100:.0f} %</text>')
    return _svg(height, parts, "success rates with 95 percent intervals")


def histogram(series: Mapping[str, Sequence[float]], *, xlabel: str, bins: int = 20) -> str:
    """Stacked histogram with common bins; the first series is at the bottom.

    Args:
        series: Label -> finite values; empty series are left out. At most two are told apart by colour.
        xlabel: Quantity and unit.
        bins: Largest number of bins; whole numbers get bins of a whole width.

    Returns:
        ``<svg>`` text; a note instead of a plot when there is no value at all.
    """
    shown = {label: np.asarray(values, float) for label, values in series.items() if len(values)}
    if not shown:
        return _svg(60, [f'<text x="{WIDTH / 2}" y="34" class="t muted middle">nothing measured</text>'], xlabel)
    edges = _edges(np.concatenate(list(shown.values())), bins)
    counts = {label: np.histogram(values, edges)[0] for label, values in shown.items()}
    tallest = max(int(sum(counts.values()).max()), 1)  # type: ignore[union-attr]
    plot = _Axes(float(edges[0]), float(edges[-1]), 0.0, float(tallest), 210)
    parts = plot.grid(_ticks(0, tallest, 4, whole=True), plot.ticks_x(), xlabel, "count")
    base = np.zeros(len(edges) - 1)
    for number, (label, column) in enumerate(counts.items()):
        for i in np.flatnonzero(column):
            left, right = plot.x(edges[i]) + 0.75, plot.x(edges[i + 1]) - 0.75
            top, foot = plot.y(base[i] + column[i]), plot.y(base[i])
            tip = f"{label}: {column[i]} in {edges[i]:.4g} to {edges[i + 1]:.4g}"
            parts.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 1):.1f}" height="{foot - top:.1f}" '
                f'class="s{number % 2 + 1}"><title>{escape(tip)}</title></rect>'
            )
        base = base + column
    if len(series) > 1:
        parts += _legend(list(counts))
    return _svg(210, parts, f"histogram of {xlabel}")


def curve(points: Sequence[Mapping[str, Any]], *, xlabel: str, ylabel: str) -> str:
    """A rate against a quantity, with a band for the interval.

    Args:
        points: Mappings with ``x``, ``y`` and ``interval`` (lower, upper), rates inside [0, 1]; at least one.
        xlabel: Quantity and unit.
        ylabel: What the rate counts.

    Returns:
        ``<svg>`` text.
    """
    points = sorted(points, key=lambda point: point["x"])
    xs = [float(point["x"]) for point in points]
    plot = _Axes(xs[0], xs[-1] if xs[-1] > xs[0] else xs[0] + 1, 0.0, 1.0, 240, pad=12)
    parts = plot.grid([0, 0.25, 0.5, 0.75, 1], xs if len(xs) <= 8 else plot.ticks_x(), xlabel, ylabel, percent=True)
    upper = [(plot.x(p["x"]), plot.y(p["interval"][1])) for p in points]
    lower = [(plot.x(p["x"]), plot.y(p["interval"][0])) for p in points]
    line = [(plot.x(p["x"]), plot.y(p["y"])) for p in points]
    parts.append(f'<polygon points="{_path(upper + lower[::-1])}" class="band"/>')
    parts.append(f'<polyline points="{_path(line)}" class="line"/>')
    for (x, y), (_, low), (_, high), point in zip(line, lower, upper, points, strict=True):
        tip = (
            f"{xlabel} {point['x']:g}: {_percent(point['y'])}, {point['interval'][0]:.3f} to {point['interval'][1]:.3f}"
        )
        parts.append(f'<g><title>{escape(tip)}</title><path d="M{x:.1f} {low:.1f}V{high:.1f}" class="whisker thin"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="dot"/></g>')
    return _svg(240, parts, f"{ylabel} against {xlabel}")


def difference_bar(difference: float, lower: float, upper: float, *, label_a: str, label_b: str) -> str:
    """One difference of rates with its interval on an axis from B better to A better.

    Args:
        difference: Rate of A minus rate of B.
        lower: Lower end of its interval.
        upper: Upper end.
        label_a: Name of A, at the right end.
        label_b: Name of B, at the left end.

    Returns:
        ``<svg>`` text.
    """
    reach = min(1.0, max(0.1, math.ceil(max(abs(lower), abs(upper)) * 10) / 10))
    x0, x1, y = 16, WIDTH - 16, 44
    low, mid, high, zero = (_scale(v, -reach, reach, x0, x1) for v in (lower, difference, upper, 0.0))
    parts = [
        f'<text x="{x0}" y="14" class="t muted">◀ {escape(label_b)} better</text>',
        f'<text x="{x1}" y="14" class="t muted end">{escape(label_a)} better ▶</text>',
        f'<path d="M{x0} {y}H{x1}" class="grid"/><path d="M{zero:.1f} 24V64" class="target"/>',
        f"<g><title>{difference:+.3f}, 95 % interval {lower:+.3f} to {upper:+.3f}</title>",
        f'<path d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 7}v14M{high:.1f} {y - 7}v14" class="whisker"/>',
        f'<circle cx="{mid:.1f}" cy="{y}" r="6" class="dot"/></g>',
    ]
    for value, anchor in ((-reach, "start"), (0.0, "middle"), (reach, "end")):
        x = _scale(value, -reach, reach, x0, x1)
        parts.append(
            f'<text x="{x:.1f}" y="82" class="t muted {anchor}">{f"{value * 100:+.0f}" if value else "0"} points</text>'
        )
    return _svg(92, parts, "difference of success rates with 95 percent interval")


class _Axes:
    """Maps data to pixels of one plot and draws its frame."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float, height: int, pad: int = 0) -> None:
        self.data = x0, x1, y0, y1
        self.pixels = LEFT + pad, WIDTH - RIGHT - pad, height - BOTTOM, TOP + 16

    def x(self, value: float) -> float:
        return _scale(float(value), self.data[0], self.data[1], self.pixels[0], self.pixels[1])

    def y(self, value: float) -> float:
        return _scale(float(value), self.data[2], self.data[3], self.pixels[2], self.pixels[3])

    def ticks_x(self) -> list[float]:
        return _ticks(self.data[0], self.data[1], 5)

    def grid(
        self, ys: Sequence[float], xs: Sequence[float], xlabel: str, ylabel: str, percent: bool = False
    ) -> list[str]:
        foot = self.pixels[2]
        parts = [f'<text x="{LEFT - 38}" y="{TOP}" class="t muted">{escape(ylabel)}</text>']
        for value in ys:
            y, text = self.y(value), f"{value * 100:.0f} %" if percent else f"{value:g}"
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" class="grid"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="t muted end">{text}</text>')
        for value in xs:
            parts.append(f'<text x="{self.x(value):.1f}" y="{foot + 16}" class="t muted middle">{value:.6g}</text>')
        middle = (self.pixels[0] + self.pixels[1]) / 2
        parts.append(f'<text x="{middle}" y="{foot + 34}" class="t muted middle">{escape(xlabel)}</text>')
        return parts


def _legend(labels: list[str]) -> list[str]:
    parts, x = [], float(WIDTH - RIGHT)
    for number, label in reversed(list(enumerate(labels))):
        x -= 7.2 * len(label)
        parts.append(f'<text x="{x:.1f}" y="{TOP}" class="t muted">{escape(label)}</text>')
        x -= 16
        parts.append(f'<rect x="{x:.1f}" y="{TOP - 10}" width="11" height="11" rx="2" class="s{number % 2 + 1}"/>')
        x -= 12
    return parts


def _svg(height: int, parts: Sequence[str], label: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, quote=True)}">'
    return head + "".join(parts) + "</svg>"


def _scale(value: float, a: float, b: float, low: float, high: float) -> float:
    return low + (value - a) / (b - a) * (high - low)


def _percent(value: float) -> str:
    return f"{value * 100:.1f} %".replace(".0 %", " %")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Round numbers inside [low, high], about ``count`` of them."""
    raw = (high - low) / max(count, 1)
    size = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next((factor * size for factor in (1, 2, 5, 10) if factor * size >= raw * 0.999), size)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _edges(values: np.ndarray, bins: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if np.all(values == np.round(values)) and high - low < 1e9:
        width = max(1, math.ceil((high - low + 1) / bins))
        return np.arange(low - 0.5, high + width, width)
    if high - low <= abs(high) * 1e-9:
        return np.array([low - 0.5, high + 0.5])
    return np.linspace(low, high, bins + 1)
