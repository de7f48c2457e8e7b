"""Labelled examples, and who is best with how many."""

from __future__ import annotations

import math

import pytest

from llmkit.evaluation.label_efficiency import CurvePoint, Stretch, in_words, nested_order, point, standing, stretches

CLASSES = [0] * 20 + [1] * 4 + [2] * 8


def curve(*pairs, spread=0.0):
    return [CurvePoint(n, value, value - spread, value + spread, 3) for n, value in pairs]


def test_an_order_holds_every_row_once_and_a_row_of_each_class_in_turn():
    order = nested_order(CLASSES, seed=0)
    assert sorted(order) == list(range(len(CLASSES)))
    for first in range(0, 12, 3):
        assert {CLASSES[row] for row in order[first : first + 3]} == {0, 1, 2}


def test_another_draw_is_another_order_and_the_same_draw_the_same():
    assert nested_order(CLASSES, seed=0, draw=1) != nested_order(CLASSES, seed=0)
    assert nested_order(CLASSES, seed=0, draw=1) == nested_order(CLASSES, seed=0, draw=1)


def test_a_point_is_the_mean_with_the_worst_and_the_best_draw():
    assert point(8, [0.5, 0.7, 0.6]) == CurvePoint(8, pytest.approx(0.6), 0.5, 0.7, 3)


def test_curves_cross_where_straight_lines_over_the_logarithm_do():
    found = stretches({"shots": curve((8, 0.7), (128, 0.7)), "cnn": curve((8, 0.5), (128, 0.9))})
    # Half of the way between log 9 and log 129: the root of their product, less one.
    assert found == [Stretch("shots", 0, True), Stretch("cnn", round(math.sqrt(9 * 129) - 1), True)]


def test_an_overlap_of_draws_is_told():
    curves = {"shots": curve((8, 0.7), (128, 0.7), spread=0.15), "cnn": curve((8, 0.5), (128, 0.8), spread=0.15)}
    parts = stretches(curves)
    assert [part.is_clear for part in parts] == [True, False]
    words = in_words(parts, {"shots": "8-shot", "cnn": "the CNN"})
    assert words == f"below {parts[1].start} examples 8-shot is best, above it the CNN (within the spread of the draws)"


def test_a_method_that_cannot_begin_earlier_is_best_from_where_it_was_measured():
    found = stretches({"asked": curve((0, 0.6), (8, 0.6)), "cnn": curve((8, 0.7))})
    assert found == [Stretch("asked", 0, True), Stretch("cnn", 8, True)]


def test_a_method_that_uses_no_more_examples_stays_as_good_as_it_was():
    # Four shots are all that a prompt holds; the CNN overtakes them later, not where their points end.
    curves = {"shots": curve((1, 0.5), (4, 0.7)), "cnn": curve((4, 0.5), (64, 0.6), (1024, 0.9))}
    parts = stretches(curves)
    assert [part.method for part in parts] == ["shots", "cnn"]
    assert 64 < parts[1].start < 1024
    assert standing(curves["shots"], 500) == CurvePoint(500, 0.7, 0.7, 0.7, 3)


def test_a_number_at_which_others_were_measured_makes_no_method_the_best():
    # All rows are 90 for one that learns from no others, and 100 for one that also stops by ten.
    curves = {"tfidf": curve((8, 0.5), (90, 0.7)), "cnn": curve((8, 0.6), (100, 0.8))}
    assert stretches(curves) == [Stretch("cnn", 0, True)]
    assert standing(curves["tfidf"], 4) is None


def test_three_stretches_and_one_read_as_a_sentence():
    parts = [Stretch("a", 0, True), Stretch("b", 10, True), Stretch("c", 1200, True)]
    assert in_words(parts, {}) == "below 10 examples a is best, above it b up to 1,200, then c"
    assert "any number" in in_words(parts[:1], {})
