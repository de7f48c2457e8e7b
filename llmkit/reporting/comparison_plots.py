"""The drawings of a comparison, from its document alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from markupsafe import Markup

from llmkit.reporting.curves import color_of
from llmkit.reporting.plots import (
    Chart,
    Frame,
    Point,
    Series,
    grid_columns,
    grid_rows,
    labels,
    line_chart,
    mark,
    path,
    picture,
    short,
    ticks,
)
from llmkit.reporting.scaling import round_numbers

SIZE = (760, 380)
SMALL = (250, 200)
NEAR = 16
"""Names of points are this many pixels apart at least."""


def curve_chart(curve: Mapping[str, Any], titles: Mapping[str, str], metric: str) -> Chart:
    """The metric by the number of labelled examples, on an axis of log(1 + n), with the spread of the draws."""
    points = [found for of_method in curve["curves"].values() for found in of_method]
    ys = [y for found in points for y in (found["low"], found["high"])]
    gap = (max(ys) - min(ys)) * 0.06 or 0.05
    most = math.log1p(max(found["examples"] for found in points)) or 1.0
    frame = Frame(*SIZE, (0.0, most), (min(ys) - gap, max(ys) + gap))
    counts = sorted({found["examples"] for found in points})
    parts = axes(frame, {math.log1p(n): f"{n:,}" for n in counts}, "labelled examples", metric)
    for number, (name, found) in enumerate(curve["curves"].items()):
        color = color_of(number)
        xs = [math.log1p(p["examples"]) for p in found]
        edge = [(x, p["high"]) for x, p in zip(xs, found, strict=True)]
        edge += [(x, p["low"]) for x, p in reversed(list(zip(xs, found, strict=True)))]
        if len(found) > 1:
            parts.append(f'<polygon class="band f{color}" points="{path(edge, frame)}"/>')
            line = path([(x, p["value"]) for x, p in zip(xs, found, strict=True)], frame)
            parts.append(f'<polyline class="line c{color}" points="{line}"/>')
        if xs[-1] < most:
            # It uses no more examples, and stays as good as it is.
            rest = path([(xs[-1], found[-1]["value"]), (most, found[-1]["value"])], frame)
            parts.append(f'<polyline class="rest c{color}" points="{rest}"/>')
        for x, p in zip(xs, found, strict=True):
            told = f"{titles[name]} with {p['examples']:,}: {p['value']:.3f}"
            parts.append(mark(frame, (x, p["value"]), f"c{color}", told))
    key = tuple((titles[name], color_of(number)) for number, name in enumerate(curve["curves"]))
    return Chart("", Markup(picture(parts, SIZE, f"{metric} by labelled examples")), key=key)


def cost_chart(lines: Sequence[Mapping[str, Any]], cascade: Mapping[str, Any] | None, metric: str) -> Chart | None:
    """The metric by milliseconds for each item, on a logarithmic axis; the cascade's frontier as a line."""
    found = [line for line in lines if line["milliseconds_per_item"]]
    if len(found) < 2:
        return None
    dots = [(math.log10(line["milliseconds_per_item"]), line["metric"]["value"]) for line in found]
    frontier = [
        (math.log10(p["milliseconds_per_item"]), p["value"])
        for p in (cascade["frontier"] if cascade else [])
        if p["milliseconds_per_item"]
    ]
    xs, ys = zip(*dots, *frontier, strict=True)
    wide, high = (max(xs) - min(xs)) * 0.08 or 0.3, (max(ys) - min(ys)) * 0.1 or 0.05
    frame = Frame(*SIZE, (min(xs) - wide, max(xs) + 2.5 * wide), (min(ys) - high, max(ys) + high))
    marks = {math.log10(x): short(x) for x in round_numbers(*frame.x)}
    parts = axes(frame, marks, "milliseconds for each item", metric)
    if len(frontier) > 1:
        parts.append(f'<polyline class="faint c3" points="{path(frontier, frame)}"/>')
    names: list[Point] = []
    for line, dot in zip(found, dots, strict=True):
        parts.append(mark(frame, dot, "c1", f"{line['title']}: {line['metric']['value']:.3f}"))
        x, y = frame.place(dot)
        while any(abs(x - a) < 140 and abs(y - b) < NEAR for a, b in names):
            y += NEAR
        names.append((x, y))
        parts.append(f'<text class="name" x="{x + 9:.1f}" y="{y + 4:.1f}">{escape(line["title"])}</text>')
    return Chart("", Markup(picture(parts, SIZE, f"{metric} by milliseconds for each item")))


def reliability_charts(lines: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Confidence against the share that is right, for each method."""
    charts = []
    for line in lines:
        found = [(b["confidence"], b["accuracy"]) for b in line["reliability"]]
        series = [Series("calibrated", [(0.0, 0.0), (1.0, 1.0)], "faint", 3), Series(line["title"], found, "dots", 1)]
        svg = line_chart(series, x_label="confidence", y_label="right", size=SMALL)
        charts.append(Chart(f"{line['title']}, error {line['calibration_error']:.3f}", Markup(svg), is_small=True))
    return charts


def axes(frame: Frame, marks: Mapping[float, str], x_label: str, y_label: str) -> list[str]:
    """Grid lines, the marks below, and what is measured: a score, which is 1 at most however much room is above it."""
    rows = [(frame.place((frame.x[0], y))[1], short(y)) for y in ticks(*frame.y, 5) if y <= 1]
    columns: list[tuple[float, str]] = []
    for x, text in marks.items():
        px, _ = frame.place((x, frame.y[0]))
        if not columns or px - columns[-1][0] >= 26:
            columns.append((px, text))
    return [*grid_rows(frame, rows), *grid_columns(frame, columns), *labels(frame, x_label, y_label)]
