from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from llmkit.reporting.plots import Series, bar_chart, line_chart, short, smooth, thin, ticks


def test_a_chart_is_well_formed_and_names_are_escaped():
    svg = line_chart([Series('<a> & "b"', [(0, 1), (1, 2)], "dots")], x_label="<step>", y_label="&")
    root = ElementTree.fromstring(svg)
    assert len(root.findall("circle")) == 2
    assert "<a>" not in svg


def test_points_lie_within_the_picture():
    svg = line_chart([Series("loss", [(0, 5.0), (50, 1.0), (100, -3.0)])], x_label="step", y_label="loss")
    (line,) = ElementTree.fromstring(svg).findall("polyline")
    places = [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
    assert all(0 <= x <= 480 and 0 <= y <= 250 for x, y in places)
    assert places[0][1] < places[1][1] < places[2][1], "up is less in pixels"


@pytest.mark.parametrize("points", [[(1, 1)], [(1, 0), (2, 0)], [(1, 1e-9), (2, 1e9)]])
def test_odd_points_are_drawn_all_the_same(points):
    assert "nan" not in line_chart([Series("x", points)], x_label="step", y_label="loss")


def test_what_is_not_finite_is_left_out():
    assert line_chart([Series("x", [(1, math.nan)])], x_label="", y_label="") == ""
    svg = line_chart([Series("x", [(1, 1.0), (2, math.inf), (3, 1.0)])], x_label="", y_label="")
    assert "inf" not in svg
    assert "nan" not in svg


def test_a_long_line_is_thinned_to_means():
    points = [(x, x % 2) for x in range(10_000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert all(y == 0.5 for _, y in thinned)
    assert thin(points[:50], 100) == points[:50]


def test_smoothing_is_the_mean_of_the_last_values():
    assert smooth([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(1, 2.0), (2, 3.0), (3, 6.5)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (1.23, 1.31), (0, 12345), (-5, 5), (1e-5, 9e-5)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 7
    assert all(low <= tick <= high * (1 + 1e-9) for tick in found)


def test_numbers_at_an_axis_are_short():
    values = (0, 0.5, 1500, 2e6, 3e-4, 2.5e-3)
    assert [short(x) for x in values] == ["0", "0.5", "1.5k", "2M", "3e-4", "2.5e-3"]


def test_bars_are_as_long_as_their_values():
    root = ElementTree.fromstring(bar_chart([("gzip -9", 2.0, False), ("ours", 1.0, True)], unit="bits"))
    first, second = (float(bar.get("width")) for bar in root.findall("rect"))
    assert first == pytest.approx(2 * second, abs=0.2)
    assert bar_chart([], unit="bits") == ""
