"""Muon, held against its description, against torch's own optimizers, and against AdamW in a race."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmkit.recipe.schema import TrainSection
from llmkit.training import muon
from llmkit.training.muon import MuonWithAdamW, orthogonalize
from llmkit.training.optim import lr_at, make_optimizer


def train(make, steps=5):
    """Weights of a small network after some steps of the optimizer that `make` gives."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 12), torch.randn(64, 20)
    layers = [nn.Linear(12, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 20)]
    model = nn.Sequential(*layers).requires_grad_(True)
    for layer in layers:
        layer.bias = None
    optimizer = make(model)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8), (3, 40, 8)])
def test_all_directions_come_out_with_a_like_strength(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(16, 24), (24, 16)])
def test_directions_are_those_of_the_matrix(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    # What is left between the singular vectors is the singular values: a diagonal.
    inside = left.T @ orthogonalize(matrix).float() @ right.T
    assert (inside - inside.diagonal().diag()).abs().max() < 0.03


@pytest.mark.parametrize(("is_there", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_is_taken_where_the_hardware_has_it(is_there, dtype, monkeypatch):
    monkeypatch.setattr("llmkit.device.has_bf16", lambda device: is_there)
    assert orthogonalize(torch.randn(16, 8)).dtype == dtype


def test_a_stack_comes_out_as_its_matrices_do():
    torch.manual_seed(0)
    stack = torch.randn(3, 20, 12)
    for whole, matrix in zip(orthogonalize(stack), stack, strict=True):
        assert torch.allclose(whole, orthogonalize(matrix), atol=0.02)


@pytest.mark.parametrize("most_elements", [1, 2**18])
def test_matrices_move_as_under_torchs_muon(monkeypatch, most_elements):
    monkeypatch.setitem(muon.STACKED_ELEMENTS, "cpu", most_elements)
    monkeypatch.setattr("llmkit.device.has_bf16", lambda device: True)  # torch's is always in bf16
    group = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "lr_scale": 1.0}
    ours = train(lambda m: MuonWithAdamW([{"params": list(m.parameters()), **group}]))
    torchs = train(lambda m: torch.optim.Muon(m.parameters(), lr=0.02, momentum=0.95, weight_decay=0.1))
    for mine, other in zip(ours, torchs, strict=True):
        assert torch.allclose(mine, other, atol=1e-3)  # five steps have moved each by up to 0.1, in bf16


def test_everything_else_moves_as_under_torchs_adamw():
    group = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1, "lr_scale": 1.0}
    ours = train(lambda m: MuonWithAdamW([{"params": list(m.parameters()), **group}]))
    torchs = train(lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1))
    for mine, other in zip(ours, torchs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def steps_to_reach(goal, *, num_steps=150, **fields):
    """Steps until a network has learned another one, whose inputs matter to very different degrees, this well."""
    generator = torch.Generator().manual_seed(0)
    inputs, first = torch.randn(512, 32, generator=generator), torch.randn(32, 64, generator=generator)
    first *= torch.logspace(0, -2, 64)
    targets = torch.tanh(inputs @ first) @ torch.randn(64, 16, generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
    model.head = nn.Linear(64, 16)
    config = TrainSection(weight_decay=0.0, warmup_steps=0, schedule="linear", min_lr_ratio=0.0, **fields)
    optimizer = make_optimizer(model, config)
    for step in range(num_steps):
        loss = (model(inputs) - targets).square().mean()
        if loss.item() < goal:
            return step
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, config, num_steps=num_steps) * group["lr_scale"]
        optimizer.step()
        optimizer.zero_grad()
    return num_steps


def test_muon_reaches_a_loss_in_fewer_steps_than_adamw_at_its_best():
    adamw = min(steps_to_reach(0.3, optimizer="adamw", lr=lr) for lr in (3e-2, 5e-2, 1e-1))
    assert steps_to_reach(0.3, optimizer="muon", lr=3e-2, muon_lr=0.1) < adamw
