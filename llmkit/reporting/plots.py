"""Charts as inline SVG: sharp at every size, light or dark with the page, and nothing to install."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Literal

from markupsafe import Markup

Point = tuple[float, float]

MOST_POINTS = 400
"""A line has no more: a run of a million steps makes no heavier page."""

LEFT, RIGHT, TOP, BOTTOM = 44, 12, 18, 34
"""Margins in pixels, for the labels of the axes."""


@dataclass(frozen=True)
class Series:
    """Points under one name.

    `line` is drawn as it is, `faint` thin behind the others, `dots` with a mark per point, `points` by its marks alone.
    """

    name: str
    points: Sequence[Point]
    style: Literal["line", "faint", "dots", "points"] = "line"
    color: int = 1
    """Which of the page's colours, from 1."""


@dataclass(frozen=True)
class Chart:
    """A picture with its caption, and the names of its colours where the page's key does not tell them."""

    title: str
    svg: Markup
    is_small: bool = False
    key: tuple[tuple[str, int], ...] = ()


MADE_BY = "<metadata>by llmkit</metadata>"
"""In a file with a picture: such a file may be replaced."""


@dataclass(frozen=True)
class Frame:
    """Where values lie on the picture."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, point: Point) -> tuple[float, float]:
        """Pixels of a point."""
        (x0, x1), (y0, y1) = self.x, self.y
        across = (point[0] - x0) / (x1 - x0 or 1)
        up = (point[1] - y0) / (y1 - y0 or 1)
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)


def line_chart(series: Sequence[Series], *, x_label: str, y_label: str, size: tuple[int, int] = (480, 250)) -> str:
    """Lines over a common x axis, with ticks at round numbers; an empty text when there is nothing to draw."""
    # Means of points beside each other are fine for a curve; single marks stay where they are.
    drawn = [
        Series(s.name, finite(s.points if s.style == "points" else thin(s.points)), s.style, s.color) for s in series
    ]
    drawn = [s for s in drawn if s.points]
    if not drawn:
        return ""
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points]
    low, high = min(ys), max(ys)
    gap = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    frame = Frame(*size, (min(xs), max(xs)), (low - gap, high + gap))
    label = f"{y_label} by {x_label}: " + ", ".join(s.name for s in drawn)
    parts = [*axes(frame, x_label, y_label), *(draw_series(s, frame) for s in drawn)]
    return picture(parts, size, label)


def picture(parts: Sequence[str], size: tuple[int, int], label: str) -> str:
    """The parts as one SVG that fills the width it is given, with its content in words for those who cannot see it."""
    head = f'<svg class="chart" viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(label)}">'
    return f"{head}{''.join(parts)}</svg>"


def axes(frame: Frame, x_label: str, y_label: str) -> list[str]:
    """Grid lines, numbers beside them, and what is measured."""
    rows = [(frame.place((frame.x[0], y))[1], short(y)) for y in ticks(*frame.y, 5)]
    columns = [(frame.place((x, frame.y[0]))[0], short(x)) for x in ticks(*frame.x, 6)]
    return [*grid_rows(frame, rows), *grid_columns(frame, columns, has_lines=False), *labels(frame, x_label, y_label)]


def grid_rows(frame: Frame, marks: Iterable[tuple[float, str]]) -> Iterator[str]:
    """A line across at each height in pixels, and its text beside it."""
    for y, text in marks:
        yield f'<line class="grid" x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'


def grid_columns(frame: Frame, marks: Iterable[tuple[float, str]], *, has_lines: bool = True) -> Iterator[str]:
    """The text of each place in pixels below it, and perhaps a line upwards."""
    for x, text in marks:
        if has_lines:
            ends = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{frame.height - BOTTOM}"'
            yield f'<line class="grid" {ends}/>'
        middle = f'x="{x:.1f}" y="{frame.height - BOTTOM + 16}" text-anchor="middle"'
        yield f'<text class="tick" {middle}>{escape(text)}</text>'


def labels(frame: Frame, x_label: str, y_label: str) -> Iterator[str]:
    """What the axes measure."""
    bottom = f'x="{frame.width - RIGHT}" y="{frame.height - 3}" text-anchor="end"'
    yield f'<text class="axis" {bottom}>{escape(x_label)}</text>'
    yield f'<text class="axis" x="{LEFT}" y="{TOP - 8}">{escape(y_label)}</text>'


def path(points: Iterable[Point], frame: Frame) -> str:
    """The points of a line in pixels."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in map(frame.place, points))


def mark(frame: Frame, point: Point, kind: str, told: str) -> str:
    """A dot that says what it is."""
    x, y = frame.place(point)
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"><title>{escape(told)}</title></circle>'


def draw_series(series: Series, frame: Frame) -> str:
    """A line, and its marks if it has them."""
    line = f'<polyline class="{series.style} c{series.color}" points="{path(series.points, frame)}"/>'
    text = "" if series.style == "points" else line
    if series.style in ("dots", "points"):
        for x, y in series.points:
            px, py = frame.place((x, y))
            told = escape(f"{series.name} at {short(x)}: {y:.4g}")
            mark = f'class="c{series.color}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"'
            text += f"<circle {mark}><title>{told}</title></circle>"
    return text


def bar_chart(bars: Sequence[tuple[str, float, bool]], *, unit: str, width: int = 640, names: int = 150) -> str:
    """Horizontal bars (name, value, whether it is ours), each with its value at the end; `names` pixels for names."""
    if not bars:
        return ""
    row, values = 30, 60
    largest = max(value for _, value, _ in bars) or 1.0
    parts = []
    for number, (name, value, is_ours) in enumerate(bars):
        y = number * row + 4
        length = max(value / largest, 0) * (width - names - values)
        kind = "bar ours" if is_ours else "bar"
        parts.append(f'<text class="name" x="{names - 12}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect class="{kind}" x="{names}" y="{y}" width="{length:.1f}" height="{row - 8}" rx="3"/>')
        parts.append(f'<text class="value" x="{names + length + 8:.1f}" y="{y + 16}">{value:.3f}</text>')
    label = f"{unit}: " + ", ".join(f"{name} {value:.3f}" for name, value, _ in bars)
    height = len(bars) * row + 4
    return picture(parts, (width, height), label)


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most `most` points: means over equal stretches, so that no outlier is picked or lost by chance."""
    if len(points) <= most:
        return list(points)
    edges = [round(i * len(points) / most) for i in range(most + 1)]
    parts = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most `most` items, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def finite(points: Sequence[Point]) -> list[Point]:
    """The points that can be drawn."""
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def smooth(points: Sequence[Point], span: int) -> list[Point]:
    """Running mean over the last `span` points."""
    total, smoothed = 0.0, []
    for number, (x, y) in enumerate(points):
        total += y - (points[number - span][1] if number >= span else 0.0)
        smoothed.append((x, total / min(number + 1, span)))
    return smoothed


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two values."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for the side of an axis: 1200 as 1.2k, 0.0025 as 2.5e-3."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e3:
        return f"{value / 1e3:g}k"
    if 0 < size < 1e-2:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    return f"{value:g}"
