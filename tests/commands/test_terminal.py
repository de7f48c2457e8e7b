"""Tables that fit a terminal."""

from __future__ import annotations

import pytest

from llmkit.commands.terminal import fit_table, shorten, squeeze
from llmkit.console import format_table

HEADERS = ["run", "model", "loss"]
ROWS = [["runs/one", "a model with a very long name indeed", 1.5], ["runs/two", "short", None]]


def test_without_a_limit_a_table_is_as_wide_as_it_is():
    assert fit_table(HEADERS, ROWS, width=None, spare=("model",)) == format_table(HEADERS, ROWS)
    assert fit_table(HEADERS, ROWS, width=80, spare=("model",)) == format_table(HEADERS, ROWS)


def test_columns_that_can_be_spared_go_first():
    assert fit_table(HEADERS, ROWS, width=40, spare=("model", "loss")) == format_table(
        ["run", "loss"], [["runs/one", 1.5], ["runs/two", None]]
    )


@pytest.mark.parametrize("width", [35, 40, 50])
def test_long_cells_are_cut_in_the_middle(width):
    lines = fit_table(HEADERS, ROWS, width=width).split("\n")
    assert max(map(len, lines)) == width
    assert "runs/one  a mod" in lines[2]
    assert "deed" in lines[2]


def test_the_names_in_front_are_cut_last():
    assert squeeze([30, 40, 20], 70) == [30, 20, 20]
    assert squeeze([30, 40, 20], 45) == [25, 10, 10]
    assert squeeze([30, 40, 20], 5) == [10, 10, 10]


def test_a_cut_text_keeps_both_ends():
    assert shorten("checkpoints/step-00000500", 12) == "check..00500"
    assert shorten("short", 12) == "short"
