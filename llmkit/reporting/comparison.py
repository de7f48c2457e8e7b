"""The page of a comparison: table, curves, calibration, confusion, cost against quality; from comparison.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmkit import __version__
from llmkit.reporting.comparison_plots import cost_chart, curve_chart, reliability_charts
from llmkit.reporting.templates import page_templates

MOST_CLASSES = 12
"""Confusion matrices of more classes are left to comparison.json."""


def render_comparison(document: Mapping[str, Any]) -> str:
    """The whole page as HTML."""
    lines = [line for line in document["methods"] if line["reason"] is None]
    lines.sort(key=lambda line: -line["metric"]["value"])
    titles = {line["method"]: line["title"] for line in document["methods"]}
    metric, curve = document["metric"].replace("_", "-"), document["curve"]
    return (
        page_templates()
        .get_template("comparison.html")
        .render(
            document=document,
            metric=metric,
            lines=lines,
            leaning=[line for line in lines if line["leaning"]],
            left_out=[line for line in document["methods"] if line["reason"] is not None],
            titles=titles,
            curve=curve_chart(curve, titles, metric) if curve else None,
            costs=cost_chart(lines, document["cascade"], metric),
            reliability=reliability_charts(lines),
            matrices=[(line["title"], shaded(line["confusion_matrix"])) for line in lines]
            if has_matrices(document)
            else [],
            version=__version__,
        )
    )


def has_matrices(document: Mapping[str, Any]) -> bool:
    """Whether there are classes, and few enough to be drawn."""
    return 0 < len(document["labels"]) <= MOST_CLASSES


def shaded(matrix: Sequence[Sequence[int]]) -> list[list[tuple[int, float]]]:
    """Counts with the share of their row, by which they are shaded."""
    return [[(count, count / (sum(row) or 1)) for count in row] for row in matrix]
