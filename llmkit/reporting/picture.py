"""The figures and the first curves as one SVG, for a README or a message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from llmkit.reporting.collect import Collection
from llmkit.reporting.figures import Figure, figures_of, format_beside, format_value
from llmkit.reporting.page import bars_of, loss_series
from llmkit.reporting.plots import MADE_BY, bar_chart, line_chart

WIDTH, TABLE, ROW, HEAD = 1060, 690, 23, 66
"""Pixels: the picture, its table with the gap beside it, a row of it, and what stands above."""

STYLE = """
svg { --ink: #1d1c1a; --soft: #6b6862; --line: #e4e1da; --paper: #fcfbf9;
  --c1: #2b6cb0; --c2: #c2571a; --bar: #c9c5bc; --good: #2f7d4f; }
@media (prefers-color-scheme: dark) { svg { --ink: #e8e6e1; --soft: #9b9890; --line: #313338; --paper: #161719;
  --c1: #7db3ea; --c2: #f0a066; --bar: #4a4d53; --good: #74c795; } }
text { font: 13px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; fill: var(--ink); }
.paper { fill: var(--paper); stroke: var(--line); } .title { font-size: 19px; font-weight: 650; }
.group, .caption { font-weight: 650; } .soft, .tick, .axis { fill: var(--soft); } .tick, .axis { font-size: 11px; }
.number { text-anchor: end; font-variant-numeric: tabular-nums; } .good { fill: var(--good); font-weight: 650; }
.grid { stroke: var(--line); } polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.faint { stroke-width: 1; opacity: .28; } polyline.c1 { stroke: var(--c1); } polyline.c2 { stroke: var(--c2); }
circle.c2 { fill: var(--c2); } .bar { fill: var(--bar); } .ours { fill: var(--c1); }
"""


def draw_picture(collection: Collection, *, title: str) -> str:
    """A standalone SVG: the table of figures, beside it the loss of the first run and its bits per byte."""
    figures = figures_of(collection)
    rows = list(table_rows(figures))
    charts = list(chart_parts(collection, figures))
    height = max(HEAD + ROW * (rows[-1][0] + 1 if rows else 0), HEAD + 420 if charts else 0) + 10
    parts = [
        f'<rect class="paper" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>',
        f'<text class="title" x="28" y="42">{escape(title)}</text>',
        *(text for _, text in rows),
        *charts,
    ]
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    label = escape("; ".join(f"{f.what}: {f.measure} {format_value(f.value)} ({format_beside(f)})" for f in figures))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">'
    return f"{head}{MADE_BY}<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"


def table_rows(figures: Sequence[Figure]) -> Iterator[tuple[int, str]]:
    """(number of the line, its SVG) of each group's name and each figure."""
    line, group = 0, None
    for figure in figures:
        if figure.group != group:
            line += 1 if group is None else 2
            group = figure.group
            yield line, f'<text class="group" x="28" y="{HEAD + line * ROW - 8}">{escape(group)}</text>'
        line += 1
        y = HEAD + line * ROW - 8
        kind = "number good" if figure.is_better else "number"
        told = escape("; ".join(filter(None, (figure.measure, format_beside(figure)))))
        yield (
            line,
            f'<text x="28" y="{y}">{escape(figure.what)}</text>'
            f'<text class="{kind}" x="372" y="{y}">{format_value(figure.value)}</text>'
            f'<text class="soft" x="384" y="{y}">{told}</text>',
        )


def chart_parts(collection: Collection, figures: Sequence[Figure]) -> Iterator[str]:
    """The loss of the first language model and its bits per byte, to the right of the table."""
    run = next((run for run in collection.runs if run.kind == "pretrain" and run.steps), None)
    if run is None:
        return
    yield caption(f"Loss of {run.name}, nats per token", HEAD + 14)
    yield inside(line_chart(loss_series(run), x_label="step", y_label="", size=(340, 240)), HEAD + 20, (340, 240))
    compared = next((f for f in figures if f.measure == "bits per byte" and f.beside), None)
    if compared is not None:
        bars = bar_chart(bars_of(compared), unit="bits per byte", width=340, names=90)
        yield caption("Bits per byte of held-out text, fewer is better", HEAD + 300)
        yield inside(bars, HEAD + 316, (340, 120))


def caption(text: str, y: int) -> str:
    """A line above a chart."""
    return f'<text class="caption" x="{TABLE}" y="{y}">{escape(text)}</text>'


def inside(svg: str, y: int, size: tuple[int, int]) -> str:
    """A chart put into the picture."""
    place = f'<svg x="{TABLE}" y="{y}" width="{size[0]}" height="{size[1]}" preserveAspectRatio="xMinYMin"'
    return svg.replace('<svg class="chart"', place, 1)
