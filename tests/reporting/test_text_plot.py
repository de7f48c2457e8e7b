"""Curves as text."""

from __future__ import annotations

import math

import pytest

from llmkit.reporting.text_plot import plot_lines

FALLING = [(x, 8 / (1 + x)) for x in range(200)]
RISING = [(x, x / 40) for x in range(200)]


def plot(series, *, width=60, height=8, is_utf8=True, has_colors=False):
    return plot_lines(
        series, width=width, height=height, x_label="step", y_label="loss", is_utf8=is_utf8, has_colors=has_colors
    )


def test_a_line_without_braille_is_what_one_would_draw_by_hand():
    text = plot_lines({"loss": [(0, 1), (3, 0)]}, width=10, height=2, x_label="step", y_label="", is_utf8=False)
    assert text.split("\n") == ["1 +****", "0 +    ***", "  ++------", "   0  step"]


def test_braille_has_eight_dots_to_a_character():
    # Four characters of two by four dots: a diagonal from the upper left to the lower right, two dots to the right
    # for each dot down.
    text = plot_lines({"loss": [(0, 1), (7, 0)]}, width=7, height=1, x_label="", y_label="", is_utf8=True)
    assert text.split("\n")[0] == "1 ┤⠉⠒⠤⣀"


@pytest.mark.parametrize("is_utf8", [True, False])
@pytest.mark.parametrize("width", [10, 40, 80, 200])
def test_no_line_is_wider_than_asked_and_the_drawing_fills_the_width(width, is_utf8):
    lines = plot({"one": FALLING, "a longer name than fits " * 5: RISING}, width=width, is_utf8=is_utf8).split("\n")
    assert max(map(len, lines)) == width
    assert lines[0] == "loss"
    assert lines[-1].endswith("step")


def test_several_lines_carry_letters_that_the_legend_explains():
    text = plot({"small": FALLING, "large": RISING})
    assert "A small   B large" in text
    drawing = text.split("\n", 2)[2]
    assert drawing.count("A") > 2
    assert drawing.count("B") > 2


def test_a_line_without_points_keeps_its_letter_for_itself():
    text = plot({"none": [], "large": RISING})
    assert "B large" in text
    assert "none" not in text


def test_plain_characters_are_ascii():
    assert plot({"small": FALLING, "large": RISING}, is_utf8=False).isascii()


def test_up_is_more():
    first, last = plot({"loss": RISING}, is_utf8=False).split("\n")[1:9:7]
    assert first.rstrip().endswith("*")
    assert "|*" in last or "+*" in last


def test_what_is_not_finite_is_left_out():
    broken = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 1.0)]
    assert plot({"loss": broken}) == plot({"loss": [(0, 1.0), (3, 1.0)]})
    assert plot({"loss": [(1, math.nan)]}) == ""
    assert plot({}) == ""


@pytest.mark.parametrize(
    "points", [[(5, 2.5)], [(1, 2.0), (9, 2.0)], [(0, 0.0)], [(3, 1e-9), (4, 1e9)], [(0, -3), (9, 7)]]
)
@pytest.mark.parametrize("is_utf8", [True, False])
def test_odd_series_are_drawn_all_the_same(points, is_utf8):
    drawing = plot({"loss": points}, is_utf8=is_utf8)
    assert any(mark in drawing for mark in ("*", *map(chr, range(0x2801, 0x2900))))


def test_steps_have_whole_numbers_on_the_axis():
    assert plot({"loss": [(1, 2.0), (2, 1.0)]}, is_utf8=False).split("\n")[-1].split() == ["1", "step"]


def test_colours_change_nothing_but_the_colour():
    import re

    series = {"small": FALLING, "large": RISING}
    colored = plot(series, has_colors=True)
    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[\d+m", "", colored) == plot(series)
