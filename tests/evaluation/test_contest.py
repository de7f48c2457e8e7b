"""Methods on the same items."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmkit.evaluation.contest import judge, measure, only_one_right

ANSWERS = [0] * 6 + [1] * 6


def sure(predicted, confidence=0.9):
    """Probabilities of two classes with this confidence in what is predicted."""
    return np.array([[confidence, 1 - confidence] if p == 0 else [1 - confidence, confidence] for p in predicted])


GOOD = sure(ANSWERS)
HALF = sure([0] * 12)
POOR = sure([1] * 5 + [0] * 7)


def test_the_best_stands_beside_nothing_and_the_others_beside_it():
    good, half, poor = judge({"good": GOOD, "half": HALF, "poor": POOR}, ANSWERS, metric="accuracy")
    assert [s.metric.value for s in (good, half, poor)] == [1.0, 0.5, pytest.approx(1 / 12)]
    assert (good.difference.value, half.difference.value, good.p_value) == (0.0, -0.5, 1.0)
    # Six items only the best gets right: 2 / 2^6. Eleven: 2 / 2^11. Two tests: the smaller counts twice.
    assert (half.p_value, poor.p_value) == (2 / 64, 2 / 2048)
    assert (half.p_holm, poor.p_holm) == (2 / 64, 4 / 2048)


def test_confidence_is_held_against_accuracy():
    good, half = judge({"good": GOOD, "half": HALF}, ANSWERS, metric="accuracy")
    assert good.calibration_error == pytest.approx(0.1)
    assert half.calibration_error == pytest.approx(0.4)
    assert good.log_loss == pytest.approx(-math.log(0.9))
    assert half.log_loss == pytest.approx(-(math.log(0.9) + math.log(0.1)) / 2)
    assert half.reliability == [(pytest.approx(0.9), 0.5, 12)]


def test_the_confusion_has_a_row_for_what_an_item_is():
    (half,) = judge({"half": HALF}, ANSWERS, metric="accuracy")
    assert half.confusion == [[6, 0], [6, 0]]


def test_a_metric_of_all_items_together_has_an_interval_too():
    _, half = judge({"good": GOOD, "half": HALF}, ANSWERS, metric="macro_f1")
    # One class with F1 = 2 * 6 / 18, one with 0.
    assert half.metric.value == pytest.approx(1 / 3)
    assert half.difference.value == pytest.approx(1 / 3 - 1)
    assert half.difference.low < half.difference.value < half.difference.high
    assert measure(GOOD, ANSWERS, "matthews").value == pytest.approx(1.0)


def test_methods_that_are_right_as_often_may_differ_in_a_metric_of_all_items_together():
    answers = [0] * 90 + [1] * 10
    # One says 0 of everything. The other finds all of the rare class, and takes as many of the other one for it.
    blind, keen = sure([0] * 100), sure([1] * 10 + [0] * 80 + [1] * 10)
    keen_first, blind_second = judge({"keen": keen, "blind": blind}, answers, metric="macro_f1")
    assert keen_first.accuracy.value == blind_second.accuracy.value
    assert blind_second.difference.value < -0.3
    assert blind_second.p_value < 0.05
    # By accuracy there is nothing between them.
    assert judge({"keen": keen, "blind": blind}, answers, metric="accuracy")[1].p_value == 1.0


def test_items_that_one_method_alone_gets_right_are_its_own():
    one, other = sure([0, 0, 1, 1]), sure([0, 1, 1, 0])
    assert only_one_right({"one": one, "other": other}, [0, 0, 1, 0]) == {"one": [1], "other": [3]}
    assert only_one_right({"one": one}, [0, 0, 1, 0]) == {}
