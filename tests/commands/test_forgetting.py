"""What was lost stands in a table, with how sure that is."""

from __future__ import annotations

from llmkit.commands.forgetting import rows_of


def measured(accuracy, correct):
    return {"exam": {"metrics": {"accuracy": {"value": accuracy}}, "correct": correct}}


def test_a_change_is_told_with_the_interval_of_its_pairs():
    before, after = measured(1.0, [True] * 40), measured(0.75, [True] * 30 + [False] * 10)
    [row] = rows_of({"before": before, "after": after})
    assert row[:5] == ["exam", "accuracy", "1.0000", "0.7500", "-0.2500"]
    low, high = (float(bound) for bound in row[5].split(" to "))
    # Ten of forty items changed: the standard error of the mean change is 0.069.
    assert -0.42 < low < -0.25 < high < -0.08


def test_a_task_that_is_missing_afterwards_has_no_line():
    assert rows_of({"before": measured(1.0, [True]), "after": {}}) == []


def test_metrics_that_are_no_shares_have_no_interval():
    text = {"book": {"metrics": {"bits_per_byte": {"value": 1.5}}, "correct": [None, None]}}
    assert rows_of({"before": text, "after": text}) == [["book", "bits_per_byte", "1.5000", "1.5000", "+0.0000", None]]
