"""Metrics of predicted classes and numbers, beside scikit-learn's and figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from llmkit.evaluation.predictions import (
    classification_metrics,
    confusion_matrix,
    language_metrics,
    majority_metrics,
    number_metrics,
)


@pytest.fixture
def answers():
    """Logits of 200 rows over five classes, of which one never occurs and one is never answered."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 4, (200,), generator=generator)
    logits = torch.randn(200, 5, generator=generator) + torch.nn.functional.one_hot(targets, 5)
    logits[:, 2] = -9.0
    return logits, targets


def test_metrics_are_those_of_scikit_learn(answers):
    logits, targets = answers
    predicted = logits.argmax(1)
    metrics = classification_metrics(logits, targets)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(targets, predicted))
    assert metrics["macro_f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    assert metrics["loss"] == pytest.approx(log_loss(targets, logits.double().softmax(1), labels=range(5)), abs=1e-6)
    expected = sklearn_confusion_matrix(targets, predicted, labels=range(5))
    assert confusion_matrix(predicted, targets, num_classes=5).tolist() == expected.tolist()


def test_majority_class_is_that_of_the_training_rows():
    training, targets = torch.tensor([1, 1, 1, 0]), torch.tensor([0, 0, 1])
    metrics = majority_metrics(training, targets, num_classes=2)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    # One row more per class: shares 2/6 and 4/6.
    assert metrics["loss"] == pytest.approx(-(2 * math.log(2 / 6) + math.log(4 / 6)) / 3)


def test_errors_of_numbers_are_in_their_own_unit():
    metrics = number_metrics(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.3], [0.6]]), scales=[10.0])
    assert metrics["rmse"] == pytest.approx(math.sqrt((9 + 16) / 2))
    assert metrics["mae"] == pytest.approx(3.5)


def test_numbers_of_several_units_are_measured_in_their_spreads():
    metrics = number_metrics(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.3, 0.6]]), scales=[10.0, 500.0])
    assert metrics["rmse"] == pytest.approx(math.sqrt((0.09 + 0.16) / 2))
    assert metrics["mae"] == pytest.approx(0.35)


def test_bits_per_byte_count_bytes_and_nats_count_symbols():
    metrics = language_metrics(8 * math.log(2), 4, 3, num_bytes=16)
    assert metrics == {"bits_per_byte": 0.5, "accuracy": 0.75, "loss": pytest.approx(2 * math.log(2))}
