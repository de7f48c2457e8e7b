"""The curves of several runs over one axis: steps, tokens or time; drawn as text, SVG or PNG elsewhere."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from llmkit.reporting.collect import RunRecord
from llmkit.reporting.figures import PRIMARY, words
from llmkit.reporting.plots import MADE_BY, Point, Series, finite, line_chart, smooth

Axis = Literal["step", "tokens", "time"]

VALIDATED = (*PRIMARY[2:], "nats_per_token", "loss", *PRIMARY[:2])
"""Metrics of validation, those whose curves say most first."""

COLORS = ("#2b6cb0", "#c2571a", "#3f8f5b", "#8a4fa3", "#b08a1a", "#c0406b", "#2f9a9a", "#77736b")
"""Of the lines in pictures; the ninth has the first again."""

SIZE = (760, 330)
"""Pixels of one chart in an SVG picture."""


@dataclass(frozen=True)
class Panel:
    """One drawing: the same measure of several runs."""

    title: str
    x_label: str
    lines: dict[str, list[Point]]
    """One per run, in one order in all panels; a run that has not got the measure has no points."""
    faint: dict[str, list[Point]] = field(default_factory=dict)
    """What the lines are the means of, to be drawn thin behind them."""
    is_dotted: bool = False
    """Whether each point is to be seen."""


def panels_of(runs: Mapping[str, RunRecord], *, by: Axis, after: float = 0.0) -> list[Panel]:
    """The training loss, and the metric of validation that most of the runs have; what no run has is left out.

    Args:
        runs: By name.
        by: What the x axis measures.
        after: Only what lies behind this place on the axis (in steps, tokens or seconds).
    """
    raw = {name: placed(run, loss_points(run), by) for name, run in runs.items()}
    means = {name: placed(run, running_mean(run), by) for name, run in runs.items()}
    panels = [Panel("training loss, running mean", by, means, raw)]
    metric = common_metric(runs.values())
    if metric is not None:
        lines = {name: placed(run, validation_points(run, metric), by) for name, run in runs.items()}
        panels.append(Panel(f"validation, {words(metric)}", by, lines, is_dotted=True))
    cut = [Panel(p.title, by, keep_after(p.lines, after), keep_after(p.faint, after), p.is_dotted) for p in panels]
    return [in_units(panel, by) for panel in cut if any(panel.lines.values())]


def loss_points(run: RunRecord) -> list[Point]:
    """(step, loss) of every line of metrics."""
    return finite([(n["step"], n["loss"]) for n in run.steps if isinstance(n["loss"], int | float)])


def running_mean(run: RunRecord) -> list[Point]:
    """(step, mean of the loss over the last fortieth of the run): single batches say little."""
    loss = loss_points(run)
    return smooth(loss, max(1, len(loss) // 40))


def validation_points(run: RunRecord, metric: str) -> list[Point]:
    """(step, value) of the validations that have this metric."""
    return finite([(n["step"], n[metric]) for n in run.validations if isinstance(n.get(metric), int | float)])


def common_metric(runs: Iterable[RunRecord]) -> str | None:
    """The metric of validation that most runs have."""
    counts = {name: sum(bool(validation_points(run, name)) for run in runs) for name in VALIDATED}
    best = max(VALIDATED, key=lambda name: counts[name])
    return best if counts[best] else None


def placed(run: RunRecord, points: list[Point], by: Axis) -> list[Point]:
    """Points by step, moved to where their step lies on the axis."""
    if by == "step":
        return points
    steps = [line["step"] for line in run.steps]
    places = times(run) if by == "time" else [line.get("tokens") or 0 for line in run.steps]
    last = [bisect_right(steps, step) - 1 for step, _ in points]
    return [(places[i] if i >= 0 else 0.0, y) for i, (_, y) in zip(last, points, strict=True)]


def times(run: RunRecord) -> list[float]:
    """Seconds of training until each line of metrics; from the speed of the single lines where they are not there."""
    total, tokens, found = 0.0, 0, []
    for line in run.steps:
        new, speed = (line.get("tokens") or 0) - tokens, line.get("tokens_per_second") or 0.0
        total += new / speed if speed > 0 else 0.0
        total = line.get("seconds", total)
        tokens += new
        found.append(total)
    return found


def elapsed(run: RunRecord) -> float | None:
    """Seconds of training until the last line of metrics; None before the first."""
    return round(times(run)[-1], 2) if run.steps else None


def keep_after(lines: Mapping[str, list[Point]], after: float) -> dict[str, list[Point]]:
    """The lines without what lies before `after`."""
    return {name: [point for point in points if point[0] >= after] for name, points in lines.items()}


def in_units(panel: Panel, by: Axis) -> Panel:
    """The panel with seconds turned into the unit that people would say."""
    longest = max(x for points in panel.lines.values() for x, _ in points)
    unit, label = {"step": (1, "steps"), "tokens": (1, "tokens")}.get(by, (1, "seconds"))
    if by == "time" and longest > 180:
        unit, label = (60, "minutes") if longest < 10_800 else (3600, "hours")

    def scaled(lines: Mapping[str, list[Point]]) -> dict[str, list[Point]]:
        return {name: [(x / unit if unit > 1 else x, y) for x, y in points] for name, points in lines.items()}

    return Panel(panel.title, label, scaled(panel.lines), scaled(panel.faint), panel.is_dotted)


def draw_svg(panels: list[Panel]) -> str:
    """All panels below each other, with a legend, as one standalone SVG."""
    names = [(i, name) for i, name in enumerate(panels[0].lines) if any(panel.lines[name] for panel in panels)]
    head = 24 + 20 * len(names)
    width, height = SIZE[0], head + len(panels) * (SIZE[1] + 34)
    parts = [f'<rect class="paper" width="{width}" height="{height}"/>']
    for row, (i, name) in enumerate(names, start=1):
        parts.append(f'<polyline class="line c{color_of(i)}" points="28,{20 * row} 52,{20 * row}"/>')
        parts.append(f'<text x="60" y="{20 * row + 4}">{escape(name)}</text>')
    for i, panel in enumerate(panels):
        y = head + i * (SIZE[1] + 34)
        parts.append(f'<text class="caption" x="28" y="{y + 16}">{escape(panel.title)}</text>')
        place = f'<svg y="{y + 22}" width="{width}" height="{SIZE[1]}" '
        parts.append(chart_of(panel).replace("<svg ", place, 1))
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{MADE_BY}<style>{style_sheet()}</style>'
    return f"{svg}{''.join(parts)}</svg>\n"


def chart_of(panel: Panel) -> str:
    """One panel as the SVG of a chart."""
    style: Literal["dots", "line"] = "dots" if panel.is_dotted else "line"
    series = [Series(name, points, "faint", color_of(i)) for i, (name, points) in enumerate(panel.faint.items())]
    series += [Series(name, points, style, color_of(i)) for i, (name, points) in enumerate(panel.lines.items())]
    return line_chart(series, x_label=panel.x_label, y_label="", size=SIZE)


def color_of(number: int) -> int:
    """The number of a line's colour in the style sheet, from 1."""
    return number % len(COLORS) + 1


def style_sheet() -> str:
    """Colours and lines of the SVG."""
    colors = "".join(
        f"polyline.c{i} {{ stroke: {color}; }} circle.c{i} {{ fill: {color}; }}\n"
        for i, color in enumerate(COLORS, start=1)
    )
    return f"""
text {{ font: 13px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: #1d1c1a; }}
.paper {{ fill: #fcfbf9; }} .caption {{ font-weight: 650; }} .tick, .axis {{ fill: #6b6862; font-size: 11px; }}
.grid {{ stroke: #e4e1da; }} polyline {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
.faint {{ stroke-width: 1; opacity: .25; }}
{colors}"""
