"""The page of a comparison."""

from __future__ import annotations

import re

from llmkit.reporting.comparison import render_comparison, view_comparison
from llmkit.reporting.comparison_plots import cost_chart


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


def test_in_short_the_best_stands_first_and_remarks_follow(document):
    view = view_comparison(document)
    assert [line["method"] for line in view.lines] == ["lora", "tfidf"]
    assert (view.metric, view.num_items) == ("accuracy", 20)
    assert view.remarks == [
        "full fine-tuning: not run: no language model was named",
        "TF-IDF + logistic regression: 99% of its answers are <b>",
        "below 4 examples, LoRA",
    ]


def test_a_comparison_of_an_earlier_version_says_nothing_of_leaning(document):
    for line in document["methods"]:
        line.pop("leaning", None)
    assert view_comparison(document | {"curve": None}).remarks == [
        "full fine-tuning: not run: no language model was named"
    ]
