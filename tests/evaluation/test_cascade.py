"""A cheap method where it is sure, a dear one for the rest."""

from __future__ import annotations

import numpy as np
import pytest

from llmkit.evaluation.cascade import NEVER, choose_threshold, combine, sweep

CHEAP = np.array([[0.95, 0.05], [0.6, 0.4], [0.9, 0.1], [0.55, 0.45]])
DEAR = np.array([[0.3, 0.7], [0.2, 0.8], [0.8, 0.2], [0.4, 0.6]])
ANSWERS = [0, 1, 0, 1]


def test_every_share_is_as_good_as_when_it_is_counted_one_by_one():
    for point in sweep(CHEAP, DEAR, ANSWERS, "accuracy"):
        both = combine(CHEAP, DEAR, point.threshold)
        assert point.value == (both.argmax(1) == ANSWERS).mean()
        assert point.share == (CHEAP.max(1) < point.threshold).mean()


def test_the_threshold_hands_on_what_the_cheap_one_gets_wrong():
    chosen = choose_threshold(CHEAP, DEAR, ANSWERS, "accuracy")
    assert (chosen.threshold, chosen.share, chosen.value) == (0.75, 0.5, 1.0)


def test_the_threshold_is_chosen_by_the_metric_of_the_task():
    # Eight of a usual class and two of a rare one. The cheap method says "usual" to all; it is unsure of the rare two
    # and of three others, all of which the dear one takes for rare: one more error, and both rare ones found.
    sure = np.array([0.9] * 5 + [0.6] * 5)
    cheap = np.stack([sure, 1 - sure], 1)
    dear = np.array([[0.9, 0.1]] * 5 + [[0.1, 0.9]] * 5)
    answers = [0] * 8 + [1] * 2
    assert choose_threshold(cheap, dear, answers, "accuracy").share == 0.0
    chosen = choose_threshold(cheap, dear, answers, "macro_f1")
    assert chosen.share == 0.5
    # F1 of the usual class 10 / 13, of the rare one 4 / 7.
    assert chosen.value == pytest.approx((10 / 13 + 4 / 7) / 2)


def test_nothing_is_handed_on_to_one_that_is_no_better():
    assert choose_threshold(CHEAP, CHEAP, ANSWERS, "accuracy").share == 0.0


def test_all_is_handed_on_by_a_threshold_that_nothing_reaches():
    last = sweep(CHEAP, DEAR, ANSWERS, "accuracy")[-1]
    assert (last.threshold, last.share) == (NEVER, 1.0)
    assert np.array_equal(combine(CHEAP, DEAR, NEVER), DEAR)


def test_items_of_equal_confidence_stay_together():
    equal = np.array([[0.7, 0.3]] * 3)
    assert [point.share for point in sweep(equal, equal, [0, 1, 0], "accuracy")] == [0.0, 1.0]


def test_a_long_frontier_keeps_its_ends():
    sure = np.linspace(0.5, 0.99, 100)
    rows = np.stack([sure, 1 - sure], 1), np.tile([0.4, 0.6], (100, 1)), [0] * 100, "accuracy"
    points, shown = sweep(*rows), sweep(*rows, most=41)
    assert (len(points), len(shown)) == (101, 41)
    assert (shown[0], shown[-1]) == (points[0], points[-1])
