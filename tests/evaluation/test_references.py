"""References beside scikit-learn's own, and counts of symbols beside a slower way."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from llmkit.evaluation import references
from llmkit.evaluation.calibration import expected_calibration_error
from llmkit.evaluation.predictions import accuracy, class_figures, reliability, worst_errors
from llmkit.evaluation.references import count_symbols, fit_references


@dataclass
class Rows:
    inputs: torch.Tensor
    targets: torch.Tensor
    references: dict = field(default_factory=dict)
    texts: list | None = None


def table(count, seed=0):
    """Two clouds that a line parts, but for some rows."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 2, (count,), generator=generator)
    return Rows(torch.randn(count, 3, generator=generator) + targets[:, None], targets)


def texts(count, seed=0):
    """Word 5 before 6 means 1, 6 before 5 means 0: single words do not tell."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 2, (count,), generator=generator)
    filler = torch.randint(7, 30, (count, 4), generator=generator).tolist()
    written = [
        " ".join(map(str, [*row, *([5, 6] if k else [6, 5])])) for row, k in zip(filler, targets.tolist(), strict=True)
    ]
    return Rows(torch.zeros(count, 1), targets, texts=written)


def share_right(reference, rows):
    return (reference.outputs.argmax(1) == rows.targets).float().mean().item()


def test_a_table_is_held_against_the_majority_and_a_line():
    training, rows = table(400), table(400, seed=1)
    majority, linear = fit_references("table", training, rows, num_outputs=2)
    assert (majority.name, linear.name) == ("majority class", "logistic regression")
    assert (majority.parameters, linear.parameters) == (2, 4)
    best = max(
        LogisticRegression(C=c).fit(training.inputs, training.targets).score(rows.inputs, rows.targets)
        for c in references.STRENGTHS
    )
    assert share_right(linear, rows) == pytest.approx(best, abs=0.01)
    assert share_right(majority, rows) < 0.6
    torch.testing.assert_close(linear.outputs.exp().sum(1), torch.ones(400))


def test_words_and_their_pairs_are_seen():
    training, rows = texts(300), texts(100, seed=1)
    *_, linear = fit_references("text", training, rows, num_outputs=2)
    assert linear.name == "TF-IDF + logistic regression"
    assert share_right(linear, rows) == 1.0


def test_a_text_is_read_to_its_end_whatever_a_network_reads():
    # The inputs, which are all alike, say nothing; the one word that does is the last of three hundred.
    targets = torch.tensor([0, 1] * 30)
    training = Rows(torch.ones(60, 2), targets, texts=["so " * 300 + ["bad", "good"][k] for k in targets.tolist()])
    *_, linear = fit_references("text", training, training, num_outputs=2)
    assert share_right(linear, training) == 1.0


def test_texts_without_a_word_are_no_error():
    training = Rows(torch.ones(8, 1), torch.tensor([0, 1] * 4), texts=[""] * 8)
    for reference in fit_references("text", training, training, num_outputs=2):
        assert reference.outputs.isfinite().all()


def test_a_class_that_training_lacks_has_a_small_probability():
    training, rows = table(100), table(10, seed=1)
    for reference in fit_references("table", training, rows, num_outputs=4):
        assert reference.outputs.shape == (10, 4)
        assert reference.outputs.isfinite().all()


def test_numbers_are_held_against_their_mean_and_a_ridge():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 4, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.0], [0.5]]) + 0.1 * torch.randn(300, 1, generator=generator)
    mean, ridge = fit_references(
        "table", Rows(inputs[:200], targets[:200]), Rows(inputs[200:], targets[200:]), num_outputs=1
    )
    assert mean.outputs.abs().sum() == 0
    assert (ridge.outputs - targets[200:]).square().mean().sqrt() == pytest.approx(0.1, rel=0.2)


def test_forecasts_are_those_of_the_rows():
    rows = Rows(torch.zeros(3, 4, 1), torch.zeros(3, 1), {"naive forecast": torch.zeros(3, 1)})
    (naive,) = fit_references("series", rows, rows, num_outputs=1)
    assert naive.name == "naive forecast"


def test_without_scikit_learn_the_majority_is_left(monkeypatch):
    monkeypatch.setattr(references, "find_spec", lambda name: None)
    assert [r.name for r in fit_references("text", texts(50), texts(9), num_outputs=2)] == ["majority class"]


def test_all_training_rows_of_one_class_are_no_error():
    training = Rows(torch.randn(6, 3), torch.tensor([0, 0, 0, 0, 0, 1]))
    for reference in fit_references("table", training, table(5), num_outputs=2):
        assert reference.outputs.shape == (5, 2)


def test_frequencies_of_symbols_are_those_counted_one_by_one():
    before, after = [1, 3, 4, 1, 3, 3], [3, 4, 1, 3, 3, 1]
    training = Rows(torch.tensor([before]), torch.tensor([after]))
    rows = Rows(torch.tensor([[1, 4, 2, 0]]), torch.tensor([[3, 1, 3, -100]]))
    single, pairs = count_symbols(training, rows, num_symbols=5)
    counts = Counter(after)
    share = {s: (counts[s] + 1) / (6 + 5) for s in range(5)}
    assert single.nats == pytest.approx(-sum(math.log(share[s]) for s in (3, 1, 3)))
    # After 1 came 3 twice; after 4 came 1 once; 2 was never seen.
    expected = [(2 + 1 * share[3]) / (2 + 1), (1 + 1 * share[1]) / (1 + 1), share[3]]
    assert pairs.nats == pytest.approx(-sum(map(math.log, expected)))


def test_pairs_are_left_out_where_there_could_be_too_many():
    rows = Rows(torch.tensor([[1, 3]]), torch.tensor([[3, 1]]))
    assert len(count_symbols(rows, rows, num_symbols=1 << 13)) == 1


def test_figures_of_a_class_are_those_of_its_counts():
    # Of four rows of a, three are found; b is answered twice, once wrongly; c never occurs.
    matrix = torch.tensor([[3, 1, 0], [0, 1, 0], [0, 0, 0]])
    a, b, c = class_figures(matrix, ["a", "b", "c"])
    assert (a.rows, a.precision, a.recall, a.f1) == (4, 1.0, 0.75, pytest.approx(6 / 7))
    assert (b.rows, b.precision, b.recall, b.f1) == (1, 0.5, 1.0, pytest.approx(2 / 3))
    assert (c.rows, c.precision, c.recall, c.f1) == (0, 0.0, 0.0, 0.0)
    assert accuracy(matrix) == 0.8


def test_confidence_is_binned_with_its_accuracy():
    chances = torch.tensor([[0.95, 0.05], [0.93, 0.07], [0.45, 0.55]])
    bins = reliability(chances.log(), torch.tensor([0, 1, 1]), num_bins=10)
    assert [b.rows for b in bins] == [1, 2]
    assert bins[0].accuracy == 1.0
    assert bins[1].confidence == pytest.approx(0.94)
    assert bins[1].accuracy == 0.5


def test_the_bins_that_are_drawn_are_those_of_the_calibration_error():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(500, 3, generator=generator), torch.randint(0, 3, (500,), generator=generator)
    confidence, predicted = logits.double().softmax(1).max(1)
    gaps = [b.rows * abs(b.confidence - b.accuracy) for b in reliability(logits, targets)]
    assert sum(gaps) / 500 == pytest.approx(expected_calibration_error(confidence, predicted == targets))


def test_the_worst_error_is_the_surest():
    chances = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    worst = worst_errors(chances.log(), torch.tensor([1, 1, 1, 1]), most=2)
    assert [(e.row, e.answer, e.predicted) for e in worst] == [(1, 1, 0), (3, 1, 0)]
    assert worst[0].probability == pytest.approx(0.9)


def test_strength_is_chosen_by_rows_that_were_held_out():
    chosen = references.fit_best(
        lambda strength, index: (strength, len(index)), lambda model, index: abs(model[0] - 10.0), 50
    )
    assert chosen == (10.0, 50)
    assert np.isclose(references.HELD_OUT, 0.2)
