import math

import numpy as np
import pytest

from llmkit.evaluation.calibration import (
    contextual_calibration,
    expected_calibration_error,
    leaning,
    log_loss,
    log_softmax,
)


def test_the_calibration_error_is_the_gap_in_each_bin_weighed_by_its_items():
    # bins of 0.5: two items at 0.4 (none right: gap 0.4), two at 0.9 (one right: gap 0.4), weights a half each.
    assert expected_calibration_error([0.4, 0.4, 0.9, 0.9], [0, 0, 1, 0], bins=2) == pytest.approx(0.4)
    # in one bin: mean confidence 0.65, accuracy 0.25.
    assert expected_calibration_error([0.4, 0.4, 0.9, 0.9], [0, 0, 1, 0], bins=1) == pytest.approx(0.4)
    assert expected_calibration_error([0.2, 0.8], [0, 1], bins=1) == pytest.approx(0.0)
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0.0


def test_the_upper_edge_belongs_to_a_bin():
    # 0.5 lies in the first of two bins with 0.3: gap |0.8 - 1| over two items.
    assert expected_calibration_error([0.5, 0.3], [1, 0], bins=2) == pytest.approx(0.1)


def test_log_loss_equals_that_of_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    chances, answers = generator.dirichlet(np.ones(4), 60), generator.integers(0, 4, 60)
    assert log_loss(chances, answers) == pytest.approx(sklearn_metrics.log_loss(answers, chances, labels=range(4)))


def test_an_impossible_answer_costs_much_and_not_everything():
    assert log_loss([[1.0, 0.0]], [0]) == 0.0
    assert 30 < log_loss([[1.0, 0.0]], [1]) < math.inf


def test_log_probabilities_add_up_however_small_the_likelihoods_are():
    found = log_softmax([[-1000.0, -1001.0], [-3.0, -3.0]])
    assert np.exp(found).sum(1) == pytest.approx([1.0, 1.0])
    assert found[0, 0] - found[0, 1] == pytest.approx(1.0)


def test_a_leaning_of_the_prompt_is_taken_out():
    # The prompt alone says class 0 with 0.8; an item at 0.6 therefore speaks for class 1: 0.6/0.8 against 0.4/0.2.
    found = np.exp(contextual_calibration(np.log([[0.6, 0.4]]), np.log([[0.8, 0.2]])))
    assert found[0] == pytest.approx(np.array([0.75, 2.0]) / 2.75)


def test_the_leanings_of_several_texts_that_say_nothing_are_averaged():
    free = np.log([[0.9, 0.1], [0.7, 0.3]])
    one = np.log([[0.8, 0.2]])
    scores = np.log([[0.6, 0.4], [0.1, 0.9]])
    assert contextual_calibration(scores, free) == pytest.approx(contextual_calibration(scores, one))


@pytest.mark.parametrize(
    ("said", "right", "leans"),
    [
        ("a" * 39 + "b", "ab" * 20, True),
        ("a" * 30 + "b" * 10, "ab" * 20, False),
        ("a" * 40, "a" * 36 + "b" * 4, False),
        ("a" * 10, "ab" * 5, False),
    ],
    ids=["one label to everything", "answers are spread", "nearly all rows are of it", "too few to tell"],
)
def test_one_answer_to_everything_is_seen(said, right, leans):
    found = leaning(list(said), list(right))
    assert (found is not None) == leans
    if found:
        assert (found.label, found.said, found.right) == ("a", 0.975, 0.5)
        assert found.in_words(can_calibrate=False) == "98% of its answers are 'a', and 50% of the rows"
        assert "--calibrate" in found.in_words(can_calibrate=True)
