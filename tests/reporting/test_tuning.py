"""What a tuned model is asked in the end."""

from __future__ import annotations

import json

import pytest

from llmkit.reporting.collect import read_run
from llmkit.reporting.tuning import changes_of, count_flips, ends_in_words


def measured(value, correct, metric="accuracy"):
    return {"exam": {"metrics": {metric: {"value": value}}, "correct": correct}}


def test_answers_that_end_are_told_of_those_that_were_asked(tuned):
    assert ends_in_words(read_run(tuned, tuned)) == "48 of 50"


def test_a_run_that_is_being_made_longer_says_at_which_step_it_was_asked(tuned):
    with (tuned / "metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"step": 1200, "loss": 1.0}) + "\n")
    assert ends_in_words(read_run(tuned, tuned)) == "48 of 50 (at step 6)"


def test_items_are_lost_and_gained_one_by_one():
    known = {"before": measured(0.75, [True, True, True, False]), "after": measured(0.5, [False, True, False, True])}
    (change,) = changes_of(known)
    assert (change.task, change.metric, change.difference) == ("exam", "accuracy", -0.25)
    assert (change.lost, change.gained) == (2, 1)


@pytest.mark.parametrize(
    "known", [{}, {"before": measured(1.0, [True])}, {"before": measured(1.0, [True]), "after": {}}]
)
def test_before_both_were_measured_there_is_no_change(known):
    assert changes_of(known) == []


def test_text_has_no_items_to_lose():
    known = {when: measured(bits, [None], "bits_per_byte") for when, bits in (("before", 1.5), ("after", 1.25))}
    (change,) = changes_of(known)
    assert (change.difference, change.lost, change.gained) == (-0.25, None, None)


def test_other_items_before_than_after_are_no_pairs():
    assert count_flips([True, False], [True]) == (None, None)
