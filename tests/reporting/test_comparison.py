"""The page of a comparison."""

from __future__ import annotations

import re

import pytest

from llmkit.reporting.comparison import render_comparison
from llmkit.reporting.comparison_plots import cost_chart


def line(method, title, value, milliseconds, reason=None):
    if reason:
        return {"method": method, "title": title, "reason": reason}
    return {
        "method": method,
        "title": title,
        "reason": None,
        "metric": {"value": value, "stderr": 0.05, "low": value - 0.1, "high": value + 0.1},
        "difference": {"value": value - 0.9, "low": None, "high": None},
        "p_holm": 0.0004,
        "log_loss": 0.4,
        "calibration_error": 0.07,
        "leaning": "99% of its answers are <b>" if method == "tfidf" else None,
        "confusion_matrix": [[7, 1], [3, 9]],
        "reliability": [
            {"confidence": 0.7, "accuracy": 0.6, "rows": 12},
            {"confidence": 0.9, "accuracy": 1.0, "rows": 8},
        ],
        "labelled_examples": 1234,
        "trained_parameters": 56789,
        "training_seconds": 1.5,
        "milliseconds_per_item": milliseconds,
        "peak_memory_bytes": 1_500_000_000,
    }


@pytest.fixture
def document():
    lines = [
        line("tfidf", "TF-IDF + logistic regression", 0.7, 0.05),
        line("lora", "LoRA", 0.9, 80.0),
        line("full", "full fine-tuning", 0, 0, reason="no language model was named"),
    ]
    curves = {
        "tfidf": [{"examples": n, "value": v, "low": v - 0.1, "high": v, "draws": 3} for n, v in ((2, 0.5), (8, 0.6))],
        "lora": [{"examples": n, "value": v, "low": v - 0.1, "high": v, "draws": 3} for n, v in ((0, 0.5), (8, 0.7))],
    }
    frontier = [
        {"threshold": 0.0, "share": 0.0, "value": 0.7, "milliseconds_per_item": 0.05},
        {"threshold": 2.0, "share": 1.0, "value": 0.9, "milliseconds_per_item": 80.05},
    ]
    return {
        "task": "<b>reviews</b>",
        "model": None,
        "labels": ["bad", "good"],
        "rows": {"train": 1134, "validation": 100, "test": 20},
        "notes": ["read as kind label"],
        "accounting": "labelled: the rows whose labels a method used",
        "metric": "accuracy",
        "test": "McNemar's exact test",
        "chance": 0.5,
        "best": "lora",
        "methods": lines,
        "only_one_right": {"lora": {"count": 1, "items": [{"id": "3", "answer": "bad", "text": "<script>x</script>"}]}},
        "cascade": {"first": "tfidf", "second": "lora", "share_handed_on": 0.22, "frontier": frontier},
        "curve": {"draws": 3, "examples": [0, 2, 8], "all": 1234, "curves": curves, "words": "below 4 examples, LoRA"},
        "output": "o",
        "command": "llmkit compare reviews.csv",
    }


def test_the_best_stands_first_and_what_was_left_out_says_why(document):
    page = render_comparison(document)
    assert page.index("LoRA</td>") < page.index("TF-IDF + logistic regression</td>")
    assert "full fine-tuning: not run: no language model was named" in page
    assert "TF-IDF + logistic regression: 99% of its answers are &lt;b&gt;" in page
    assert "&lt;0.001" in page
    assert "1,234" in page
    assert "56,789" in page
    assert "llmkit compare reviews.csv" in page


def test_the_page_needs_no_network_and_runs_nothing_that_a_row_says(document):
    page = render_comparison(document)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "<b>reviews" not in page
    assert not re.search(r"https?://|src=\"(?!data:)", page)


def test_curve_frontier_calibration_and_confusion_are_drawn(document):
    page = render_comparison(document)
    assert page.count('<polygon class="band') == 2
    assert "below 4 examples, LoRA" in page
    assert "hands on 22%" in page
    assert page.count("What is taken for what") == 1
    assert page.count("<svg") == 4  # the curve, the cost, and the calibration of two methods


def test_without_classes_curve_or_cascade_the_rest_is_there(document):
    document |= {"labels": [], "curve": None, "cascade": None, "only_one_right": {}}
    page = render_comparison(document)
    assert "What is taken for what" not in page
    assert "How many labelled examples" not in page
    assert page.count("<svg") == 3


def test_no_axis_of_scores_goes_beyond_one(document):
    for found in document["methods"]:
        if found["reason"] is None:
            found["metric"]["value"] = 1.0
    svg = cost_chart([m for m in document["methods"] if m["reason"] is None], None, "accuracy").svg
    scores = [float(text) for text in re.findall(r'text-anchor="end"[^>]*>([\d.]+)<', svg)]
    assert max(scores) == 1
