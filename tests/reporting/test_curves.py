"""Curves of several runs over one axis, and their pictures."""

from __future__ import annotations

import struct
import warnings
from xml.etree import ElementTree

import pytest

from llmkit.reporting.collect import RunRecord
from llmkit.reporting.curves import draw_svg, panels_of


def run_of(losses, *, kind="pretrain", tokens=100, speed=50.0, validations=(), seconds=None):
    """A record with a line per step: `tokens` more in each, at `speed` tokens a second."""
    steps = [
        {
            "step": n,
            "loss": loss,
            "tokens": tokens * n,
            "tokens_per_second": speed,
            **({"seconds": seconds * n} if seconds else {}),
        }
        for n, loss in enumerate(losses, start=1)
    ]
    empty = {"environment": {}, "samples": [], "summary": {}, "results": {}}
    return RunRecord("run", None, {"kind": kind}, steps=steps, validations=list(validations), **empty)


def test_the_axis_counts_steps_tokens_or_seconds():
    run = run_of([4.0, 3.0, 2.0], validations=[{"step": 2, "bits_per_byte": 1.5}])
    places = {}
    for by in ("step", "tokens", "time"):
        loss, validation = panels_of({"a": run}, by=by)
        places[by] = [x for x, _ in loss.lines["a"]], validation.lines["a"]
    assert places["step"] == ([1, 2, 3], [(2, 1.5)])
    assert places["tokens"] == ([100, 200, 300], [(200, 1.5)])
    assert places["time"] == ([2.0, 4.0, 6.0], [(4.0, 1.5)])


def test_seconds_are_taken_from_the_lines_where_they_stand_there():
    (panel,) = panels_of({"a": run_of([4.0, 3.0], seconds=7.0)}, by="time")
    assert [x for x, _ in panel.lines["a"]] == [7.0, 14.0]


@pytest.mark.parametrize(
    ("seconds", "label", "last"), [(60, "seconds", 180), (61, "minutes", 3.05), (7200, "hours", 6)]
)
def test_time_is_told_in_the_unit_that_people_would_use(seconds, label, last):
    (panel,) = panels_of({"a": run_of([4.0, 3.0, 2.0], seconds=seconds)}, by="time")
    assert panel.x_label == label
    assert panel.lines["a"][-1][0] == pytest.approx(last)


def test_what_lies_before_a_place_is_left_out():
    (panel,) = panels_of({"a": run_of([4.0, 3.0, 2.0]), "b": run_of([9.0])}, by="step", after=2)
    assert panel.lines == {"a": [(2, 3.0), (3, 2.0)], "b": []}
    assert panels_of({"a": run_of([4.0])}, by="step", after=2) == []


def test_the_line_is_the_mean_over_a_fortieth_of_the_run():
    (panel,) = panels_of({"a": run_of([1.0, 3.0] * 40)}, by="step")
    assert panel.lines["a"][-1] == (80, 2.0)
    assert panel.faint["a"][-1] == (80, 3.0)


def test_the_metric_that_most_runs_have_is_drawn():
    bits = run_of([1.0], validations=[{"step": 1, "bits_per_byte": 2.0, "nats_per_token": 3.0}])
    nats = run_of([1.0], validations=[{"step": 1, "nats_per_token": 4.0}])
    _, panel = panels_of({"a": bits, "b": nats}, by="step")
    assert panel.title == "validation, nats per token"
    assert panel.lines == {"a": [(1, 3.0)], "b": [(1, 4.0)]}


def test_losses_that_are_no_numbers_are_no_points():
    (panel,) = panels_of({"a": run_of([4.0, float("nan"), None, 2.0])}, by="step")
    assert [x for x, _ in panel.lines["a"]] == [1, 4]


@pytest.fixture
def panels():
    runs = {
        "a <b>": run_of([4.0, 3.0], validations=[{"step": 2, "bits_per_byte": 1.5}]),
        "$x_1$": run_of([5.0, 4.0]),
        "_": run_of([]),
    }
    return panels_of(runs, by="step")


def test_the_svg_has_a_chart_per_panel_and_a_legend_of_what_is_drawn(panels):
    root = ElementTree.fromstring(draw_svg(panels))
    name = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{name}svg")) == 2
    texts = [text.text for text in root.findall(f"{name}text")]
    assert texts == ["a <b>", "$x_1$", "training loss, running mean", "validation, bits per byte"]


def test_the_png_is_a_picture_of_1500_pixels(panels):
    pytest.importorskip("matplotlib")
    from llmkit.reporting.png import draw_png

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of matplotlib's own parts while it loads
        picture = draw_png(panels)
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (1500, 1260)
