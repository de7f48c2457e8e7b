"""The report: one HTML page that holds everything, opens without a network, and reads well by day and by night."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from markupsafe import Markup

from llmkit import __version__
from llmkit.console import format_seconds
from llmkit.reporting.baselines import BaselineView, view_baseline
from llmkit.reporting.collect import Answers, Collection, RunRecord
from llmkit.reporting.comparison import ComparisonView, view_comparison
from llmkit.reporting.figures import Figure, figures_of, format_beside, format_value, model_name, words
from llmkit.reporting.plots import Chart, Point, Series, bar_chart, line_chart, smooth, spread
from llmkit.reporting.scaling import view_ladder
from llmkit.reporting.templates import page_templates
from llmkit.reporting.tuning import Change, changes_of, ends_in_words

SMALL = (310, 170)
"""Size of the charts of which three stand in a row."""

MOST_SAMPLES = 4
"""Prompts whose samples are shown, and steps at which."""

MOST_CLASSES = 12
"""Confusion matrices of more classes are left to results.json."""


@dataclass(frozen=True)
class RunView:
    """What the page shows of a run."""

    record: RunRecord
    facts: list[tuple[str, str]]
    charts: list[Chart]
    samples: list[tuple[str, list[dict[str, Any]]]]
    recipe: str
    baseline: BaselineView | None
    changes: list[Change]


def render_page(collection: Collection, *, title: str, made: str, folder: Path) -> str:
    """The whole page as HTML.

    Args:
        collection: What it is to show.
        title: Its headline.
        made: When, as it is to be shown.
        folder: Where it is to lie: links to pages of comparisons lead from there.
    """
    environment = page_templates()
    environment.filters |= {"value": format_value, "words": words, "beside": format_beside, "model_name": model_name}
    figures = figures_of(collection)
    return environment.get_template("page.html").render(
        title=title,
        made=made,
        version=__version__,
        cards=choose_cards(figures),
        groups=[(name, list(members)) for name, members in groupby(figures, key=lambda figure: figure.group)],
        bars=text_bars(figures),
        tasks=task_tables(collection),
        tokenizers=[report for document in collection.tokenizers for report in tokenizer_rows(document)],
        answers=[side_by_side(group) for group in same_prompts(collection.answers)],
        ladders=[(ladder.name, view_ladder(ladder.document)) for ladder in collection.ladders],
        comparisons=comparison_views(collection, folder),
        runs=[view_run(run) for run in collection.runs],
        environments=environments(collection),
        most_classes=MOST_CLASSES,
    )


def choose_cards(figures: Sequence[Figure]) -> list[Figure]:
    """The first of each group that stands beside something: what to see at one glance."""
    compared = [figure for figure in figures if figure.beside]
    best: dict[str, Figure] = {}
    for figure in compared:
        if figure.group not in best or (figure.group == "Tasks" and figure.value > best[figure.group].value):
            best[figure.group] = figure
    return list(best.values())


def text_bars(figures: Sequence[Figure]) -> list[Chart]:
    """Bits per byte of models beside those of compressors on the same text."""
    charts = []
    for figure in figures:
        if figure.measure == "bits per byte" and figure.beside:
            svg = bar_chart(bars_of(figure), unit="bits per byte")
            charts.append(Chart(f"{figure.what}: bits per byte, fewer is better", Markup(svg)))
    return charts


def bars_of(figure: Figure) -> list[tuple[str, float, bool]]:
    """A figure and what it stands beside, as bars from long to short."""
    bars = [(figure.what.partition(", ")[2] or figure.what, figure.value, True)]
    bars += [(name, value, False) for name, value in figure.beside]
    return sorted(bars, key=lambda bar: -bar[1])


def task_tables(collection: Collection) -> list[tuple[str, list[dict[str, Any]]]]:
    """(task, its results by model and shots), tasks in the order in which they first ran."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for evaluation in collection.evaluations:
        for result in evaluation.results:
            tables.setdefault(result["task"], []).append({**result, "model": model_name(evaluation.model)})
    return list(tables.items())


def tokenizer_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The tokenizers of one comparison, plain bytes last."""
    reference = document.get("reference")
    return [*document["tokenizers"], *([reference] if reference else [])]


def same_prompts(answers: Iterable[Answers]) -> list[list[Answers]]:
    """Answers to the same questions together, in the order in which they were given."""
    groups: dict[tuple[str, ...], list[Answers]] = {}
    for given in answers:
        groups.setdefault(tuple(str(c.get("prompt")) for c in given.completions), []).append(given)
    return list(groups.values())


def side_by_side(group: Sequence[Answers]) -> dict[str, Any]:
    """Names of the columns, and for each question its answers."""
    rows = zip(*(given.completions for given in group), strict=True)
    return {
        "names": [given.name.rpartition("/")[2] for given in group],
        "rows": [(row[0]["prompt"], [completion["text"] for completion in row]) for row in rows],
    }


def comparison_views(collection: Collection, folder: Path) -> list[tuple[str, ComparisonView, str, str]]:
    """(name, what is shown, the way from `folder` to its own page, and the same as a link); "" where it has no page."""
    found = []
    for compared in collection.comparisons:
        way = Path(os.path.relpath(compared.page, folder)).as_posix() if compared.page else ""
        found.append((compared.name, view_comparison(compared.document), way, quote(way)))
    return found


def view_run(run: RunRecord) -> RunView:
    """A run as the page shows it."""
    recipe = yaml.safe_dump(run.recipe, sort_keys=False)
    return RunView(
        record=run,
        facts=facts_of(run),
        charts=charts_of(run),
        samples=samples_of(run),
        recipe=recipe,
        baseline=view_baseline(run),
        changes=changes_of(run.forgotten),
    )


def facts_of(run: RunRecord) -> list[tuple[str, str]]:
    """What one wants to know of a run besides its curves."""
    facts = [("verb", run.kind), ("status", str(run.summary.get("status", "not finished")))]
    if run.steps:
        facts.append(("steps", f"{run.steps[-1]['step']:,}"))
        facts.append(("seen", f"{run.steps[-1].get('tokens', 0):,} {'rows' if run.kind == 'baseline' else 'tokens'}"))
    if run.summary:
        facts.append(("time", format_seconds(run.summary.get("seconds", 0.0))))
        facts.append(("speed", f"{run.summary.get('tokens_per_second', 0.0):,.0f} per second"))
    if run.summary.get("best_step") is not None:
        facts.append(("weights of step", f"{run.summary['best_step']:,}"))
    last = run.validations[-1] if run.validations else {}
    facts += [
        (f"validation {words(k)}", format_value(v)) for k, v in last.items() if k != "step" and isinstance(v, float)
    ]
    ends = ends_in_words(run)
    return facts if ends is None else [*facts, ("answers that end", ends)]


def charts_of(run: RunRecord) -> list[Chart]:
    """Loss, the metrics of validation, and what went on beneath."""
    unit = "loss" if run.kind == "baseline" else "loss in nats per token"
    charts = [Chart("Loss", Markup(line_chart(loss_series(run), x_label="step", y_label=unit)))]
    for name, color in (("bits_per_byte", 2), ("accuracy", 2), ("rmse", 2)):
        values = points(run.validations, name)
        if len(values) > 1:
            svg = line_chart([Series("validation", values, "dots", color)], x_label="step", y_label=words(name))
            charts.append(Chart(f"Validation: {words(name)}", Markup(svg)))
    for name, title in (("lr", "Learning rate"), ("grad_norm", "Gradient norm"), ("tokens_per_second", "Per second")):
        svg = line_chart([Series(title, points(run.steps, name), "line", 3)], x_label="step", y_label="", size=SMALL)
        charts.append(Chart(title, Markup(svg), is_small=True))
    return [chart for chart in charts if chart.svg]


def loss_series(run: RunRecord) -> list[Series]:
    """The loss of each step, its running mean, and that of validation."""
    loss = points(run.steps, "loss")
    return [
        Series("each step", loss, "faint", 1),
        Series("training", smooth(loss, max(1, len(loss) // 40)), "line", 1),
        Series(
            "validation", points(run.validations, "loss" if run.kind == "baseline" else "nats_per_token"), "dots", 2
        ),
    ]


def points(lines: Iterable[dict[str, Any]], name: str) -> list[Point]:
    """(step, value) of the lines that have this value."""
    return [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]


def samples_of(run: RunRecord) -> list[tuple[str, list[dict[str, Any]]]]:
    """(prompt, its samples by step): the first prompts, at steps spread over the run."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for sample in run.samples:
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(sample)
    return [(prompt, spread(samples, MOST_SAMPLES)) for prompt, samples in list(by_prompt.items())[:MOST_SAMPLES]]


def environments(collection: Collection) -> list[tuple[str, list[tuple[str, str]], str]]:
    """(run, what it was made with, the command as it was typed)."""
    found = []
    for run in collection.runs:
        values = dict(run.environment)
        command = shlex.join(map(str, values.pop("command", [])))
        packages = values.pop("packages", {}) or {}
        facts = [(words(k), str(v)) for k, v in values.items()] + [(k, str(v)) for k, v in packages.items() if v]
        found.append((run.name, facts, command))
    return found
