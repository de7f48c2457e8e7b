import math

import numpy as np
import pytest

from llmkit.evaluation import metrics
from llmkit.evaluation.metrics import ChoiceScore, Item
from llmkit.evaluation.statistics import mean, ratio


def choices(*numbers):
    """Of (log-likelihood, tokens, bytes); characters are as many as bytes unless a fourth number says so."""
    return tuple(ChoiceScore("", *(*values, values[2])[:4], is_greedy=False) for values in numbers)


def label_item(answer, *likelihoods):
    scored = choices(*((value, 1, 1) for value in likelihoods))
    return Item("0", None, None, None, scored, answer, scores=metrics.choice_scores(scored, answer))


def test_accuracy_per_byte_and_per_token_undo_the_advantage_of_short_choices():
    # (log-likelihood, tokens, bytes): the second is less likely, but longer in bytes; then longer in tokens.
    longer = metrics.choice_scores(choices((-3.0, 1, 2), (-4.0, 1, 8)), 1)
    assert longer == {"accuracy": 0.0, "accuracy_bytes": 1.0, "accuracy_characters": 1.0, "accuracy_tokens": 0.0}
    more = metrics.choice_scores(choices((-3.0, 1, 2), (-4.0, 2, 2)), 1)
    assert more == {"accuracy": 0.0, "accuracy_bytes": 0.0, "accuracy_characters": 0.0, "accuracy_tokens": 1.0}


def test_accuracy_per_character_is_not_that_per_byte_outside_ascii():
    # Six bytes are three letters of Greek, and six of English.
    scored = choices((-3.0, 1, 6, 3), (-4.0, 1, 6, 6))
    found = metrics.choice_scores(scored, 0)
    assert (found["accuracy_bytes"], found["accuracy_characters"]) == (1.0, 0.0)


def test_pmi_asks_which_choice_the_question_makes_likelier():
    scored = (ChoiceScore("", -2.0, 1, 1, 1, False, unconditional=-2.5), ChoiceScore("", -3.0, 1, 1, 1, False, -6.0))
    assert metrics.choice_scores(scored, 1)["accuracy"] == 0.0
    assert metrics.choice_scores(scored, 1)["accuracy_pmi"] == 1.0


def test_the_standard_error_of_accuracy_is_that_of_a_mean():
    assert mean([1, 0, 0, 1]).stderr == pytest.approx(math.sqrt(1 / 3 / 4))
    assert mean([1]).stderr is None


def test_label_metrics_come_with_their_uncertainty():
    # The likelihoods 3 to 1 are probabilities 3/4 and 1/4 whatever they add up to.
    items = [label_item(0, math.log(0.3), math.log(0.1)), label_item(1, math.log(0.03), math.log(0.01))]
    found = metrics.label_metrics(items, 2)
    assert found["accuracy"].value == 0.5
    assert found["log_loss"].value == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    assert found["calibration_error"].value == pytest.approx(0.25)
    assert found["macro_f1"].value == pytest.approx((2 / 3) / 2)
    assert found["matthews"].value == 0.0
    assert all(estimate.stderr is not None for estimate in found.values())


def test_calibrated_scores_have_metrics_of_their_own():
    scored = tuple(ChoiceScore("", ll, 1, 1, 1, False, calibrated=c) for ll, c in ((-1.0, -2.0), (-3.0, -0.1)))
    item = Item("0", None, None, None, scored, 1, scores=metrics.choice_scores(scored, 1))
    found = metrics.label_metrics([item, item], 2)
    assert found["accuracy"].value == 0.0
    assert found["accuracy_calibrated"].value == 1.0
    assert found["log_loss_calibrated"].value < found["log_loss"].value


def test_matthews_equals_that_of_scikit_learn():
    theirs = pytest.importorskip("sklearn.metrics").matthews_corrcoef
    generator = np.random.default_rng(0)
    predicted, answers = generator.integers(0, 4, 50), generator.integers(0, 4, 50)
    assert metrics.matthews(predicted, answers, 5) == pytest.approx(theirs(answers, predicted))
    assert metrics.matthews(np.zeros(4, int), np.array([0, 1, 0, 1]), 2) == 0.0


def test_chance_is_that_of_a_guess_among_the_choices_of_each_item():
    assert metrics.chance_of("accuracy_bytes", [2, 4]) == pytest.approx(0.375)
    assert metrics.chance_of("log_loss", [4, 4]) == pytest.approx(math.log(4))
    assert metrics.chance_of("accuracy", [1, 1]) is None
    assert metrics.chance_of("macro_f1", [2, 2]) is None


def test_macro_f1_weighs_labels_not_rows():
    # label 0: precision 3/4, recall 1 -> 6/7; label 1: recall 1/2, precision 1 -> 2/3; label 2 never occurs.
    found = metrics.macro_f1(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 1, 1]), 3)
    assert found == pytest.approx((6 / 7 + 2 / 3) / 2)


def test_macro_f1_equals_that_of_scikit_learn():
    f1_score = pytest.importorskip("sklearn.metrics").f1_score
    generator = np.random.default_rng(0)
    predicted, answers = generator.integers(0, 4, 50), generator.integers(0, 4, 50)
    assert metrics.macro_f1(predicted, answers, 5) == pytest.approx(f1_score(answers, predicted, average="macro"))


def test_perplexities_are_over_all_texts_together():
    texts = [Item("0", None, None, None, (ChoiceScore("", -6.0, 3, 4, 4, False),), num_words=2)]
    texts.append(Item("1", None, None, None, (ChoiceScore("", -2.0, 1, 4, 4, False),), num_words=2))
    found = metrics.perplexity_metrics(texts)
    assert found["nats_per_token"].value == pytest.approx(2.0)
    assert found["perplexity"].value == pytest.approx(math.exp(2.0))
    assert found["bits_per_byte"].value == pytest.approx(1.0 / math.log(2))
    assert found["word_perplexity"].value == pytest.approx(math.exp(2.0))


def test_the_error_of_a_ratio_vanishes_when_all_items_have_the_same():
    assert ratio([2.0, 4.0], [1, 2]).stderr == pytest.approx(0.0)
    assert ratio([2.0, 5.0], [1, 2]).stderr > 0


def test_each_group_has_its_score_and_a_small_one_counts_as_much():
    right = {"history": [1.0, 0.0, 1.0, 1.0], "law": [0.0]}
    items = [
        Item(f"{group} {number}", None, None, None, scores={"exact_match": score}, group=group)
        for group, scores in right.items()
        for number, score in enumerate(scores)
    ]
    found = metrics.group_metrics(items, "exact_match")
    assert {name: estimate.value for name, estimate in found.items()} == {
        "exact_match_macro": 0.375,
        "exact_match of history": 0.75,
        "exact_match of law": 0.0,
    }
