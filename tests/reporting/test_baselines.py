"""What the page shows of a classical network: references, confidence, errors, and its insides."""

from __future__ import annotations

import json
import re

import pytest

from llmkit.reporting.baselines import chart_of_pairs, compare, view_baseline
from llmkit.reporting.collect import collect
from llmkit.reporting.figures import figures_of
from llmkit.reporting.page import render_page

RESULTS = {
    "network": "CNN (10 parameters)",
    "parameters": 10,
    "seconds": 4.5,
    "data": "pets",
    "test": {"accuracy": 0.97, "macro_f1": 0.96, "loss": 0.1},
    "classes": ["cat", "dog"],
    "confusion_matrix": [[3, 1], [0, 4]],
    "references": [
        {"name": "majority class", "accuracy": 0.5, "macro_f1": 0.33, "loss": 0.69, "parameters": 2},
        {"name": "logistic regression", "accuracy": 0.9, "macro_f1": 0.9, "loss": 0.3, "parameters": 8, "seconds": 0.2},
    ],
    "classes_in_detail": [{"name": "cat", "rows": 4, "precision": 1.0, "recall": 0.75, "f1": 0.857}],
    "calibration_error": 0.0213,
    "reliability": [{"confidence": 0.55, "accuracy": 0.5, "rows": 4}, {"confidence": 0.95, "accuracy": 1.0, "rows": 9}],
    "worst_errors": [
        {"row": 3, "is": "cat", "taken_for": "dog", "probability": 0.98, "text": "a <furry> one"},
        {"row": 5, "is": "dog", "taken_for": "cat", "probability": 0.9, "picture": "iVBORw0KGgo="},
        {"row": 7, "is": "dog", "taken_for": "cat", "probability": 0.8, "columns": {"age": 3.0, "colour": "red"}},
    ],
}


@pytest.fixture
def folder(tmp_path):
    """A run that was looked into at two steps."""
    run = tmp_path / "runs" / "pets"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("kind: baseline\n")
    layers = {"blocks.0": {"grad_norm": 0.5}, "blocks.1": {"dead": 0.25}, "cell": {"grad_norm": 0.1, "saturated": 0.3}}
    lines = [{"step": n, "loss": 1.0 / n, "lr": 1e-3, "grad_norm": 0.6, "tokens": n, "layers": layers} for n in (1, 2)]
    lines.insert(1, {"step": 2, "loss": 0.5, "lr": 1e-3, "grad_norm": 0.6, "tokens": 2})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "summary.json").write_text(json.dumps({"status": "finished", "seconds": 4.5, "best_step": 1}))
    (run / "results.json").write_text(json.dumps(RESULTS))
    return tmp_path / "runs"


def test_everything_that_was_measured_is_on_the_page(folder):
    page = render_page(collect([folder]), title="Pets", made="today", folder=folder)
    for text in (
        "Beside what needs no network",
        "logistic regression",
        "Calibration",
        "Expected calibration error: 0.0213",
        "Class by class",
        "taken for <b>dog</b> (98%)",
        "a &lt;furry&gt; one",
        "age 3.0, colour red",
        "Gradient norm by layer",
        "Share of dead units by layer",
        "Share of saturated outputs by layer",
        "weights of step",
    ):
        assert text in page, text
    # A picture is in the page itself.
    assert re.findall(r'src="([^"]+)"', page) == ["data:image/png;base64,iVBORw0KGgo="]
    assert not re.search(r"https?://|url\(|@import|<script", page)


def test_the_page_counts_which_class_was_taken_for_which(folder):
    page = render_page(collect([folder]), title="Pets", made="today", folder=folder)
    table = page.partition("Which class was taken for which")[2].partition("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
    # A row is what they are, a column what they were taken for; nothing stands for none.
    assert rows == [["", "cat", "dog"], ["cat", "3", "1"], ["dog", "", "4"]]
    # The darker, the larger the share of its row, up to 70%.
    assert re.findall(r"var\(--c1\) (\d+)%", table) == ["52", "18", "0", "70"]


def test_the_network_comes_first_and_what_needs_none_below_it():
    table = compare(RESULTS)
    assert table.metrics == ["accuracy", "macro_f1", "loss"]
    assert [row[0] for row in table.rows] == ["CNN", "majority class", "logistic regression"]
    assert table.rows[0] == ("CNN", [0.97, 0.96, 0.1], 10, 4.5)
    assert table.rows[1] == ("majority class", [0.5, 0.33, 0.69], 2, None)


def test_each_layer_has_its_curve(folder):
    (run,) = collect([folder]).runs
    view = view_baseline(run)
    charts = {chart.title: chart for chart in view.charts}
    norms = charts["Gradient norm by layer"]
    assert norms.key == (("blocks.0", 1), ("cell", 2))
    assert norms.svg.count("<polyline") == 2
    assert charts["Share of dead units by layer"].key == (("blocks.1", 1),)


def test_all_references_stand_beside_the_figure(folder):
    (figure,) = figures_of(collect([folder]))
    assert figure.beside == (("majority class", 0.5), ("logistic regression", 0.9))
    assert figure.is_better


def test_a_language_model_is_measured_in_bits(folder):
    results = {**RESULTS, "test": {"bits_per_byte": 1.9, "accuracy": 0.4, "loss": 1.3}}
    results["references"] = [{"name": "frequency of pairs", "bits_per_byte": 2.5, "loss": 1.7}]
    (folder / "pets" / "results.json").write_text(json.dumps(results))
    (figure,) = figures_of(collect([folder]))
    assert (figure.measure, figure.value, figure.beside) == ("bits per byte", 1.9, (("frequency of pairs", 2.5),))
    # What has no accuracy leaves its place empty.
    assert compare(results).rows[1][1] == [None, 2.5, 1.7]


def test_numbers_are_drawn_as_marks_and_a_series_as_lines():
    numbers = {"name": "price", "true": [1.0, 3.0, 2.0], "predicted": [1.5, 2.5, 2.0], "is_series": False}
    marks = chart_of_pairs(numbers)
    assert (marks.svg.count("<circle"), marks.svg.count("<polyline")) == (3, 1)
    lines = chart_of_pairs({**numbers, "is_series": True})
    assert (lines.svg.count("<circle"), lines.svg.count("<polyline")) == (0, 2)


def test_a_run_that_is_no_baseline_or_not_tested_yet_has_no_table(folder):
    (folder / "pets" / "results.json").unlink()
    (run,) = collect([folder]).runs
    assert view_baseline(run).comparison.rows == []
    render_page(collect([folder]), title="Pets", made="today", folder=folder)
    (folder / "pets" / "recipe.yaml").write_text("kind: pretrain\n")
    (run,) = collect([folder]).runs
    assert view_baseline(run) is None
