"""A comparison as its own page has it, from comparison.json alone, and in short as a report has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit import __version__
from llmkit.reporting.comparison_plots import cost_chart, curve_chart, reliability_charts
from llmkit.reporting.templates import page_templates

MOST_CLASSES = 12
"""Confusion matrices of more classes are left to comparison.json."""


@dataclass(frozen=True)
class ComparisonView:
    """What a report shows of a comparison."""

    task: str
    metric: str
    num_items: int
    chance: float | None
    lines: list[dict[str, Any]]
    """The methods that ran, from the best on."""
    remarks: list[str]
    """Which method did not run, or says one label to nearly everything, and what the curves tell."""


def view_comparison(document: Mapping[str, Any]) -> ComparisonView:
    """The part of a comparison that a report of many things has room for."""
    lines, curve = ranked(document), document["curve"]
    return ComparisonView(
        task=document["task"],
        metric=document["metric"].replace("_", "-"),
        num_items=document["rows"]["test"],
        chance=document["chance"],
        lines=lines,
        remarks=[*remarks_of(document), *([curve["words"]] if curve else [])],
    )


def remarks_of(document: Mapping[str, Any]) -> list[str]:
    """Which methods did not run and why, and which say one label to nearly everything."""
    left_out = [f"{n['title']}: not run: {n['reason']}" for n in document["methods"] if n["reason"] is not None]
    return [*left_out, *(f"{n['title']}: {n['leaning']}" for n in ranked(document) if n.get("leaning"))]


def ranked(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The methods that ran, from the best on."""
    lines = [line for line in document["methods"] if line["reason"] is None]
    return sorted(lines, key=lambda line: -line["metric"]["value"])


def render_comparison(document: Mapping[str, Any]) -> str:
    """The whole page as HTML."""
    lines = ranked(document)
    titles = {line["method"]: line["title"] for line in document["methods"]}
    metric, curve = document["metric"].replace("_", "-"), document["curve"]
    return (
        page_templates()
        .get_template("comparison.html")
        .render(
            document=document,
            metric=metric,
            lines=lines,
            remarks=remarks_of(document),
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
