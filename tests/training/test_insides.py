"""What goes on inside: gradients by layer, units that are dead, outputs that are saturated."""

from __future__ import annotations

import pytest
import torch
from small_runs import LabelledRows, classify, losses_of
from torch import nn

from llmkit.recipe.schema import TrainSection
from llmkit.training.insides import Insides


def looked_into(model, inputs, grad_norm=None, max_norm=None):
    """One step of a model, looked into: the layers of its line."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    insides = Insides(model, optimizer, TrainSection(steps=1), num_steps=1)
    with insides.watching(1):
        model(inputs).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or float("inf"))
        optimizer.step()
    return insides.take(float(norm))["layers"], float(norm)


def test_a_unit_that_no_row_makes_positive_is_dead():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
        model[0].bias.zero_()
    # Inputs are positive in the first place and mixed in the second: unit 1 alone never answers.
    layers, _ = looked_into(model, torch.tensor([[1.0, -1.0], [2.0, 3.0]]))
    assert layers["1"] == {"dead": 0.25}


def test_filters_are_dead_over_all_places():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        model[0].bias.zero_()
    layers, _ = looked_into(model, torch.tensor([[1.0, 0.0], [0.0, 0.0]]).view(1, 1, 2, 2))
    assert layers["1"] == {"dead": 0.5}


@pytest.mark.parametrize(
    ("activation", "inputs", "expected"),
    # Slopes by their highest: tanh(2.5) has 0.027, tanh(1) 0.42; sigmoid(5) has 0.027, sigmoid(2) 0.42.
    [(nn.Tanh(), [2.5, -2.5, 1.0, 0.0], 0.5), (nn.Sigmoid(), [5.0, 2.0, 0.0, -2.0], 0.25)],
    ids=["tanh", "sigmoid"],
)
def test_outputs_on_flat_ground_are_saturated(activation, inputs, expected):
    model = nn.Sequential(nn.Linear(1, 1, bias=False), activation)
    nn.init.ones_(model[0].weight)
    layers, _ = looked_into(model, torch.tensor(inputs)[:, None])
    assert layers["1"] == {"saturated": expected}


def test_norms_of_layers_are_those_before_clipping_and_add_up():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 2))
    inputs = torch.randn(5, 4)
    model(inputs).sum().backward()
    expected = {n: sum(float(p.grad.square().sum()) for p in model[int(n)].parameters()) ** 0.5 for n in ("0", "3")}
    model.zero_grad()
    layers, _ = looked_into(model, inputs, max_norm=0.01)
    # The layer of normalisation has no matrix, and no curve.
    assert {name for name, found in layers.items() if "grad_norm" in found} == {"0", "3"}
    for name, norm in expected.items():
        assert layers[name]["grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_lines_of_metrics_carry_it_and_training_is_the_same(tmp_path):
    _, plain, weights = classify(tmp_path / "plain", steps=120, log_every=2)
    _, lines, same = classify(tmp_path / "run", steps=120, log_every=2, calls={"looks_inside": True})
    assert losses_of(plain) == losses_of(lines)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    seen = [line["step"] for line in lines if "layers" in line]
    # Some fifty looks, in lines that are written.
    assert seen == list(range(2, 121, 2))
    assert set(lines[0]["layers"]) == {"0", "1", "2"}
    assert not any("layers" in line for line in plain)


def test_micro_batches_are_seen_together(tmp_path):
    rows = LabelledRows()
    _, lines, _ = classify(tmp_path / "a", rows=rows, steps=1, calls={"looks_inside": True})
    _, split, _ = classify(tmp_path / "b", rows=rows, steps=1, micro_batch_size=3, calls={"looks_inside": True})
    for name, found in lines[0]["layers"].items():
        assert split[0]["layers"][name] == pytest.approx(found, rel=1e-2)
