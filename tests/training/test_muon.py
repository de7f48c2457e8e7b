"""Muon, held against its description and against torch's own optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmkit.recipe.schema import TrainSection
from llmkit.training.muon import MuonWithAdamW, orthogonalize
from llmkit.training.optim import make_optimizer


def train(make, steps=5):
    """Weights of a small network after some steps of the optimizer that `make` gives."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(64, 12), torch.randn(64, 20)
    model = nn.Sequential(nn.Linear(12, 8, bias=False), nn.Linear(8, 20, bias=False))
    optimizer = make(model)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_all_directions_come_out_with_a_like_strength(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_matrices_move_as_under_torchs_muon():
    group = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1, "lr_scale": 1.0}
    ours = train(lambda m: MuonWithAdamW([{"params": list(m.parameters()), **group}]))
    torchs = train(lambda m: torch.optim.Muon(m.parameters(), lr=0.02, momentum=0.95, weight_decay=0.1))
    for mine, other in zip(ours, torchs, strict=True):
        assert torch.allclose(mine, other, atol=3e-3)


def test_everything_else_moves_as_under_torchs_adamw():
    group = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1, "lr_scale": 1.0}
    ours = train(lambda m: MuonWithAdamW([{"params": list(m.parameters()), **group}]))
    torchs = train(lambda m: torch.optim.AdamW(m.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1))
    for mine, other in zip(ours, torchs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)


def test_embeddings_and_norms_stay_with_adamw(tiny_model):
    names = {p: n for n, p in tiny_model.named_parameters()}
    muon, plain = make_optimizer(tiny_model, TrainSection(optimizer="muon", lr=1e-3, muon_lr=0.02)).param_groups
    assert muon["lr_scale"] == pytest.approx(20)
    assert all("layers" in names[p] for p in muon["params"])
    assert {names[p] for p in plain["params"]} >= {"model.norm.weight", "model.embed_tokens.weight"}
