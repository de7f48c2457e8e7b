"""The numbers of labelled examples that a curve is drawn at."""

from __future__ import annotations

import pytest

from llmkit.commands.contest.curve import parse_counts
from llmkit.commands.contest.rows import Contest, Part


@pytest.mark.parametrize(
    ("text", "counts"),
    [("0,1,2,4,...,all", [0, 1, 2, 4, 8, 16, 32, 70]), ("8,2,all", [2, 8, 70]), ("4,65,90", [4])],
)
def test_the_numbers_of_a_curve_double_behind_dots(text, counts):
    parts = {name: Part([""] * n, [0] * n) for name, n in (("train", 60), ("validation", 10))}
    assert parse_counts(text, Contest("t", "t", "accuracy", ["a", "b"], parts, [])) == counts
