"""Recurrent cells, and the small language models."""

from __future__ import annotations

import math

import pytest
import torch

from llmkit.batch import IGNORE_INDEX
from llmkit.data.labelled import TensorRows
from llmkit.errors import RecipeError
from llmkit.losses import classification_loss_sum
from llmkit.models.baselines import BaselineSpec, build_baseline, measure_language
from llmkit.recipe.schema import BaselineModel

LANGUAGE = BaselineSpec("language", (), 9, 9, 12)
SERIES = BaselineSpec("series", (5, 3), 2)
TEXT = BaselineSpec("text", (), 2, 20)


def section(kind="rnn", **fields):
    sizes = {"hidden_size": 8, "embedding_size": 6, "num_heads": 2, "dropout": 0.0}
    return BaselineModel(**{"kind": kind, **sizes, **fields})


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_every_cell_reads_series_and_texts(cell):
    for spec, inputs in ((SERIES, torch.randn(4, 5, 3)), (TEXT, torch.tensor([[3, 4, 0], [5, 6, 7]]))):
        model = build_baseline(section(cell=cell, num_layers=2, bidirectional=True), spec)
        assert model(inputs).shape == (len(inputs), 2)


def test_the_plain_cell_is_tanh_of_two_products():
    model = build_baseline(section(cell="rnn"), SERIES).eval()
    inputs, cell = torch.randn(1, 5, 3), model.cell
    state = torch.zeros(8)
    for point in inputs[0]:
        state = torch.tanh(cell.weight_ih_l0 @ point + cell.bias_ih_l0 + cell.weight_hh_l0 @ state + cell.bias_hh_l0)
    torch.testing.assert_close(model(inputs)[0], model.head(state))


def test_read_from_both_ends_a_series_answers_by_all_of_it():
    model = build_baseline(section(cell="gru", bidirectional=True), SERIES).eval()
    backward = model.head.weight[:, 8:]
    with torch.no_grad():
        model.head.weight[:, :8] = 0.0
    first, last = torch.randn(1, 5, 3), torch.randn(1, 5, 3)
    last[:, 0] = first[:, 0]
    assert backward.abs().sum() > 0
    # The backward cell ends at the beginning, having read what came later.
    assert not torch.allclose(model(first), model(last))


def test_an_lstm_begins_by_remembering():
    cell = build_baseline(section(cell="lstm"), SERIES).cell
    assert torch.equal(cell.bias_ih_l0[8:16], torch.ones(8))
    assert not torch.equal(cell.bias_ih_l0[:8], torch.ones(8))


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_a_language_model_sees_nothing_of_what_it_predicts(kind):
    model = build_baseline(section(kind), LANGUAGE).eval()
    one, other = torch.tensor([[1, 3, 4, 5]]), torch.tensor([[1, 3, 7, 8]])
    torch.testing.assert_close(model(one)[:, :2], model(other)[:, :2])
    assert not torch.allclose(model(one)[:, 2:], model(other)[:, 2:])


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_padding_changes_nothing_of_a_language_model(kind):
    model = build_baseline(section(kind), LANGUAGE).eval()
    short, padded = torch.tensor([[1, 3, 4]]), torch.tensor([[1, 3, 4, 0, 0]])
    torch.testing.assert_close(model(padded)[:, :3], model(short))


def test_nats_of_rows_add_up_to_the_loss():
    ids = torch.tensor([[1, 3, 4, 5], [1, 6, 0, 0]], dtype=torch.int32)
    targets = torch.tensor([[3, 4, 5, 1], [6, 1, IGNORE_INDEX, IGNORE_INDEX]], dtype=torch.int32)
    rows = TensorRows(ids, targets, [4, 2])
    model = build_baseline(section(), LANGUAGE)
    found = measure_language(model, rows)
    batch = {"inputs": ids.long(), "targets": targets.long()}
    assert found.num_targets.tolist() == [4, 2]
    assert found.nats.sum().item() == pytest.approx(classification_loss_sum(model.eval(), batch).item(), rel=1e-5)
    one_by_one = measure_language(model, rows, batch_size=1)
    torch.testing.assert_close(found.nats, one_by_one.nats, rtol=1e-5, atol=0)


def test_an_untrained_transformer_is_about_as_good_as_a_guess():
    model = build_baseline(section("transformer", hidden_size=32), BaselineSpec("language", (), 50, 50, 16)).eval()
    ids = torch.randint(3, 50, (8, 16))
    batch = {"inputs": ids, "targets": ids.roll(-1, 1)}
    assert classification_loss_sum(model, batch).item() / ids.numel() == pytest.approx(math.log(50), rel=0.1)


@pytest.mark.parametrize(
    ("chosen", "spec", "message"),
    [
        (section("cnn"), LANGUAGE, "reads a whole row at once"),
        (section("transformer"), TEXT, "is a language model"),
        (section(bidirectional=True), LANGUAGE, "gives away what comes next"),
        (section("transformer", num_heads=3), LANGUAGE, "cannot be dealt out"),
    ],
    ids=["cnn", "text", "both ends", "heads"],
)
def test_what_cannot_be_a_language_model_says_why(chosen, spec, message):
    with pytest.raises(RecipeError, match=message):
        build_baseline(chosen, spec)


def test_class_weights_and_smoothing_are_in_the_sum():
    class Fixed(torch.nn.Module):
        def forward(self, inputs):
            return inputs

    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    batch = {"inputs": logits, "targets": targets}
    first, second = math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))
    plain = classification_loss_sum(Fixed(), batch)
    assert float(plain) == pytest.approx(first + second)
    weighed = classification_loss_sum(Fixed(), batch, class_weights=torch.tensor([3.0, 1.0]))
    assert float(weighed) == pytest.approx(3 * (first + second))
    smooth = classification_loss_sum(Fixed(), batch, label_smoothing=0.2)
    # Nine tenths on the right class, a tenth on the other.
    assert float(smooth) == pytest.approx(first + second + 0.1 * 2 - 0.1 * 1)
