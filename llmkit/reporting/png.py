"""Panels of curves as a PNG picture, by matplotlib: the only module that needs it."""

from __future__ import annotations

from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from llmkit.reporting.curves import COLORS, Panel
from llmkit.reporting.plots import Point, thin

MOST_POINTS = 2000
"""Of one line: more than the picture has columns says nothing new."""


def draw_png(panels: list[Panel]) -> bytes:
    """All panels below each other, with a legend, 1,500 pixels wide."""
    figure = Figure(figsize=(10, 4.2 * len(panels)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(panels[0].lines)}
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for name, points in panel.faint.items():
            axes.plot(*columns(points), color=color[name], alpha=0.25, linewidth=0.8)
        for name, points in panel.lines.items():
            if points:
                style = {"color": color[name], "marker": "o" if panel.is_dotted else "", "markersize": 4}
                axes.plot(*columns(points), label=as_text(name), **style)
        axes.set_title(panel.title, loc="left", fontsize=11)
        axes.set_xlabel(panel.x_label)
        axes.grid(color="#e4e1da")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": "llmkit"})
    return file.getvalue()


def columns(points: list[Point]) -> tuple[list[float], list[float]]:
    """The x and the y of points, not more than can be seen."""
    seen = thin(points, MOST_POINTS)
    return [x for x, _ in seen], [y for _, y in seen]


def as_text(name: str) -> str:
    """A name as it is: matplotlib would set what stands between dollars as a formula, and hide what begins with _."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
