"""The drawing of a scaling law as a PNG picture, by matplotlib."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from llmkit.reporting.curves import COLORS
from llmkit.reporting.plots import short
from llmkit.reporting.png import as_text
from llmkit.reporting.scaling import axis_of, frame_of, loss_marks, round_numbers
from llmkit.reporting.scaling_words import MEASURES


def draw_scaling_png(document: dict[str, Any]) -> bytes:
    """Models, law, band, prediction and check, both axes logarithmic, 1,350 pixels wide."""
    figure = Figure(figsize=(9, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes, dial, ink = figure.subplots(), document["dials"][0], "#1d1c1a"
    axes.set_xscale("log")
    axes.set_yscale("log")
    for number, curve in enumerate(document["curves"]):
        color = COLORS[number % len(COLORS)]
        if curve["law"]:
            axes.plot(*zip(*curve["law"], strict=True), color=color)
            xs, low, high = zip(*curve["band"], strict=True)
            axes.fill_between(xs, low, high, color=color, alpha=0.16, linewidth=0)
        axes.plot(*zip(*curve["points"], strict=True), "o", color=color, label=as_text(curve["name"]))
    predicted, check = document["prediction"], document["check"]
    if predicted is not None and document["is_supported"]:
        x, y = predicted[dial], predicted["loss"]
        axes.plot([x, x], [predicted["low"], predicted["high"]], color=ink, linewidth=1.5)
        axes.plot([x], [y], "o", color=ink, markerfacecolor="white", label="predicted, with its 95% interval")
    if check is not None:
        axes.plot([check[dial]], [check["loss"]], "o", color=ink, label="trained to check it")
    label_axes(axes, document)
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": "llmkit"})
    return file.getvalue()


def label_axes(axes: Any, document: dict[str, Any]) -> None:
    """Round numbers on both axes, and what they measure."""
    frame = frame_of(document)
    axes.set_xlim(10 ** frame.x[0], 10 ** frame.x[1])
    axes.set_ylim(10 ** frame.y[0], 10 ** frame.y[1])
    axes.set_xticks(round_numbers(*frame.x))
    axes.set_yticks(loss_marks(frame))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel(axis_of(document["dials"][0]))
    axes.set_ylabel(MEASURES[document["measure"]])
    axes.grid(color="#e4e1da")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
