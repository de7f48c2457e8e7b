"""What the page shows of a classical network besides its curves: its references, its errors, and its insides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from llmkit.reporting.collect import RunRecord
from llmkit.reporting.plots import Chart, Point, Series, line_chart, spread

MOST_LAYERS = 8
"""Curves in one chart, as many as there are colours; of more layers some, the first and the last among them."""

METRICS = ("accuracy", "macro_f1", "bits_per_byte", "rmse", "mae", "loss")

INSIDES = {
    "grad_norm": ("Gradient norm by layer", "what reaches a layer of the error"),
    "dead": ("Share of dead units by layer", "units that no row of a batch makes answer"),
    "saturated": ("Share of saturated outputs by layer", "outputs where the slope is nearly flat"),
}
"""What is logged of layers: the title of its chart, and what it is."""


@dataclass(frozen=True)
class Comparison:
    """A table: the network first, then what needs no network."""

    metrics: list[str]
    rows: list[tuple[str, list[float | None], int | None, float | None]]
    """Name, metrics, parameters, seconds of training."""


@dataclass(frozen=True)
class BaselineView:
    """What is shown of the results of a classical network."""

    comparison: Comparison
    charts: list[Chart]
    classes: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    calibration_error: float | None


def view_baseline(run: RunRecord) -> BaselineView | None:
    """The parts of the page for a baseline; None for other runs, and for one that was not tested yet."""
    if run.kind != "baseline":
        return None
    results = run.results
    return BaselineView(
        compare(results),
        [chart for chart in (*result_charts(results), *insides_charts(run)) if chart.svg],
        list(results.get("classes_in_detail") or ()),
        list(results.get("worst_errors") or ()),
        results.get("calibration_error"),
    )


def compare(results: dict[str, Any]) -> Comparison:
    """The network and its references by their metrics."""
    own = results.get("test") or results.get("validation") or {}
    references = results.get("references") or ([results["reference"]] if results.get("reference") else [])
    metrics = [name for name in METRICS if name in own]
    rows = []
    if metrics:
        name = str(results.get("network", "network")).partition(" ")[0]
        rows.append((name, [own[m] for m in metrics], results.get("parameters"), results.get("seconds")))
    for found in references:
        figures = [found.get(m) for m in metrics]
        rows.append((str(found.get("name")), figures, found.get("parameters"), found.get("seconds")))
    return Comparison(metrics, rows)


def result_charts(results: dict[str, Any]) -> list[Chart]:
    """Confidence against accuracy; or numbers as they are and as they were predicted."""
    charts = []
    bins = results.get("reliability")
    if bins:
        found = [(b["confidence"], b["accuracy"]) for b in bins]
        series = [Series("calibrated", [(0.0, 0.0), (1.0, 1.0)], "faint", 3), Series("network", found, "dots", 1)]
        svg = line_chart(series, x_label="confidence", y_label="share that is right")
        key = (("network, by confidence", 1), ("as it would be if confidence could be trusted", 3))
        charts.append(Chart("Calibration", Markup(svg), key=key))
    pairs = results.get("pairs")
    if pairs:
        charts.append(chart_of_pairs(pairs))
    return charts


def chart_of_pairs(pairs: dict[str, Any]) -> Chart:
    """A series and its forecast over time, or predicted numbers over true ones."""
    true, found, name = pairs["true"], pairs["predicted"], str(pairs["name"])
    if pairs["is_series"]:
        lines = [
            Series("true", list(enumerate(true)), "line", 3),
            Series("forecast", list(enumerate(found)), "line", 1),
        ]
        svg = line_chart(lines, x_label="step of the test", y_label=name)
        return Chart("The end of the test, and its forecast", Markup(svg), key=(("true", 3), ("forecast", 1)))
    low, high = min([*true, *found]), max([*true, *found])
    dots = [
        Series("equal", [(low, low), (high, high)], "faint", 3),
        Series("rows", list(zip(true, found, strict=True)), "points", 1),
    ]
    svg = line_chart(dots, x_label=f"true {name}", y_label=f"predicted {name}")
    return Chart("Predicted and true", Markup(svg), key=(("a row", 1), ("predicted without error", 3)))


def insides_charts(run: RunRecord) -> list[Chart]:
    """A curve for each layer: its gradient, its dead units, its saturated outputs."""
    looks = [line for line in run.steps if isinstance(line.get("layers"), dict)]
    charts = []
    for what, (title, meaning) in INSIDES.items():
        names = list(dict.fromkeys(name for line in looks for name, v in line["layers"].items() if what in v))
        series = [
            Series(name, points_of(looks, name, what), "line", color)
            for color, name in enumerate(spread(names, MOST_LAYERS), start=1)
        ]
        svg = line_chart(series, x_label="step", y_label=meaning)
        charts.append(Chart(title, Markup(svg), key=tuple((s.name, s.color) for s in series)))
    return charts


def points_of(looks: Sequence[dict[str, Any]], name: str, what: str) -> list[Point]:
    """(step, value) of a layer."""
    return [(line["step"], line["layers"][name][what]) for line in looks if what in line["layers"].get(name, {})]
