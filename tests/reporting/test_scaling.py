"""The drawing of a scaling law: where points lie on logarithmic axes, what is drawn and what is not."""

from __future__ import annotations

import re

import pytest

from llmkit.reporting.scaling import draw_scaling, frame_of, loss_marks, render_scaling, round_numbers
from llmkit.reporting.scaling_png import draw_scaling_png


@pytest.fixture
def document():
    points = [(1e6, 4.0), (1e7, 2.0), (1e8, 1.0)]
    return {
        "dials": ["parameters"],
        "measure": "nats_per_token",
        "is_supported": True,
        "curves": [
            {"name": "models", "points": points, "law": points, "band": [(x, y * 0.9, y * 1.1) for x, y in points]}
        ],
        "prediction": {"name": "next", "parameters": 1e9, "loss": 0.5, "low": 0.4, "high": 0.6},
        "check": {"name": "next", "parameters": 1e9, "loss": 0.55},
        "rungs": [{"name": f"{x:g}", "loss": y, "seconds": 12.0} for x, y in points],
        "residuals": {"1e+06": 4.0},
        "law": None,
        "doubts": [],
        "optima": [],
        "budgets": [],
        "note": "20 tokens per parameter",
        "data": "<data>",
        "rule": "lr as said",
    }


def test_equal_factors_are_equally_far_apart(document):
    frame = frame_of(document)
    xs, ys = zip(*(frame.place(point) for point in document["curves"][0]["points"]), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1])
    assert ys[1] - ys[0] == pytest.approx(ys[2] - ys[1])


def test_models_law_band_prediction_and_check_are_drawn(document):
    svg = draw_scaling(document)
    assert svg.count("<circle") == 3 + 2
    assert svg.count("<polygon") == 1
    assert "next is expected at 0.5000" in svg
    assert "next came to 0.5500" in svg
    assert len(re.findall('class="tick"', svg)) > 6


def test_without_a_law_the_models_alone_are_drawn(document):
    curve = {**document["curves"][0], "law": [], "band": []}
    bare = {**document, "curves": [curve], "prediction": None, "check": None, "is_supported": False}
    assert draw_scaling(bare).count("<circle") == 3
    assert "<polygon" not in draw_scaling(bare)
    assert draw_scaling_png(bare).startswith(b"\x89PNG")


def test_a_loss_of_zero_is_drawn_at_the_bottom(document):
    curve = {**document["curves"][0], "points": [(1e6, 4.0), (1e7, 2.0), (1e8, 0.0)]}
    zero = {**document, "curves": [curve]}
    low, high = 10 ** frame_of(zero).y[0], 10 ** frame_of(zero).y[1]
    assert 0.3 < low < 0.5 < 4.0 < high < 6
    assert draw_scaling(zero).count("<circle") == 3 + 2
    assert draw_scaling_png(zero).startswith(b"\x89PNG")
    nothing = {**zero, "curves": [{**curve, "points": [(1e6, 0.0)], "law": [], "band": []}]}
    assert draw_scaling({**nothing, "prediction": None, "check": None}).count("<circle") == 1


def test_an_axis_is_marked_at_round_numbers(document):
    assert round_numbers(0.9, 2.1) == [10, 20, 50, 100]
    assert loss_marks(frame_of(document)) == [0.5, 1, 2, 5]


def test_the_page_holds_the_words_the_table_and_no_markup_of_others(document):
    page = render_scaling({**document, "prediction": None, "check": None})
    assert "<p>measured: validation loss in nats per token; N counts all parameters" in page
    assert "&lt;data&gt;" in page
    assert "<data>" not in page
    assert "+0.00%" in page
