import math

import numpy as np
import pytest

from llmkit.evaluation import metrics
from llmkit.evaluation.metrics import ChoiceScore, Item
from llmkit.evaluation.statistics import mean, ratio


def item(answer, *choices):
    return Item("0", None, None, None, tuple(ChoiceScore("", *numbers, is_greedy=False) for numbers in choices), answer)


def test_accuracy_per_byte_and_per_token_undo_the_advantage_of_short_choices():
    # (log-likelihood, tokens, bytes): the second is less likely, but longer in bytes; the third longer in tokens.
    items = [item(1, (-3.0, 1, 2), (-4.0, 1, 8)), item(1, (-3.0, 1, 2), (-4.0, 2, 2))]
    found = metrics.choice_metrics(items)
    assert found["accuracy"].value == 0.0
    assert found["accuracy_bytes"].value == 0.5
    assert found["accuracy_tokens"].value == 0.5


def test_the_standard_error_of_accuracy_is_that_of_a_mean():
    assert mean([1, 0, 0, 1]).stderr == pytest.approx(math.sqrt(1 / 3 / 4))
    assert mean([1]).stderr is None


def test_macro_f1_weighs_labels_not_rows():
    # label 0: precision 3/4, recall 1 -> 6/7; label 1: recall 1/2, precision 1 -> 2/3; label 2 never occurs.
    found = metrics.macro_f1(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1]), 3)
    assert found == pytest.approx((6 / 7 + 2 / 3) / 2)


def test_macro_f1_equals_that_of_scikit_learn():
    f1_score = pytest.importorskip("sklearn.metrics").f1_score
    generator = np.random.default_rng(0)
    predicted, answers = generator.integers(0, 4, 50), generator.integers(0, 4, 50)
    assert metrics.macro_f1(predicted, answers, 5) == pytest.approx(f1_score(answers, predicted, average="macro"))


@pytest.mark.parametrize(
    ("said", "accepted", "exact", "contains", "f1"),
    [
        ("The  Onion!", ["onion"], 1, 1, 1.0),
        ("It is an onion", ["onion"], 0, 1, 0.5),
        ("scallion", ["onion"], 0, 0, 0.0),
        ("red onion", ["leek", "onion red"], 0, 0, 1.0),
        ("", ["onion"], 0, 0, 0.0),
    ],
)
def test_free_answers_are_compared_in_normal_form(said, accepted, exact, contains, f1):
    found = metrics.score_answer(said, accepted)
    assert found == {"exact_match": exact, "contains": contains, "f1": pytest.approx(f1)}


def test_perplexities_are_over_all_texts_together():
    texts = [Item("0", None, None, None, (ChoiceScore("", -6.0, 3, 4, False),), num_words=2)]
    texts.append(Item("1", None, None, None, (ChoiceScore("", -2.0, 1, 4, False),), num_words=2))
    found = metrics.perplexity_metrics(texts)
    assert found["nats_per_token"].value == pytest.approx(2.0)
    assert found["perplexity"].value == pytest.approx(math.exp(2.0))
    assert found["bits_per_byte"].value == pytest.approx(1.0 / math.log(2))
    assert found["word_perplexity"].value == pytest.approx(math.exp(2.0))


def test_the_error_of_a_ratio_vanishes_when_all_items_have_the_same():
    assert ratio([2.0, 4.0], [1, 2]).stderr == pytest.approx(0.0)
    assert ratio([2.0, 5.0], [1, 2]).stderr > 0


@pytest.mark.parametrize(
    ("said", "wanted", "is_right"),
    [("", "A", 0), ("a", "A", 1), ("5", "-5", 0), ("35", "3.5", 0), ("1,000", "1000", 1), ("The Cat.", "cat", 1)],
)
def test_different_answers_are_not_made_equal_by_their_normal_form(said, wanted, is_right):
    assert metrics.score_answer(said, [wanted])["exact_match"] == is_right
