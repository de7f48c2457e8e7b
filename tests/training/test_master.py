"""Master weights in fp32 behind parameters in bf16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmkit.recipe.schema import TrainSection
from llmkit.training.master import MasterWeights
from llmkit.training.optim import make_optimizer


def one_weight():
    """A model of one number, 1, in bf16."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    return model.to(torch.bfloat16)


def push(model, optimizer, steps):
    """Steps with a gradient of 1."""
    for _ in range(steps):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()


def test_updates_too_small_for_bf16_add_up():
    settings = {"lr": 1e-4, "weight_decay": 0.0}
    lost = one_weight()
    push(lost, torch.optim.AdamW(lost.parameters(), **settings), 100)
    assert lost.weight.item() == 1.0
    kept = one_weight()
    optimizer = make_optimizer(kept, TrainSection(**settings))
    push(kept, optimizer, 100)
    # AdamW moves by lr in each step: to 0.99 after a hundred, which bf16 rounds to 0.98828 or 0.99219.
    assert optimizer.state[kept.weight]["master"].item() == pytest.approx(0.99, abs=1e-5)
    assert kept.weight.item() == 0.98828125


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_masters_move_as_fp32_weights_would_under_the_same_gradients(name):
    torch.manual_seed(0)
    rounded = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8)).to(torch.bfloat16)
    full = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8))
    full.load_state_dict(rounded.state_dict())
    config = TrainSection(optimizer=name, lr=1e-3)
    optimizers = [make_optimizer(model, config) for model in (rounded, full)]
    for _ in range(4):
        for p, q in zip(rounded.parameters(), full.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.float()
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(rounded.parameters(), full.parameters(), strict=True):
        assert torch.equal(optimizers[0].state[p]["master"], q)
        assert torch.equal(p, q.to(torch.bfloat16))


def test_weights_in_fp32_need_no_masters_and_are_not_held_twice():
    model = nn.Sequential(nn.Linear(4, 4).to(torch.bfloat16), nn.Linear(4, 4))
    optimizer = make_optimizer(model, TrainSection())
    assert isinstance(optimizer, MasterWeights)
    before = [p.clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert ["master" in optimizer.state[p] for p in model.parameters()] == [True, True, False, False]


def test_gradients_are_gone_after_a_step():
    model = one_weight()
    push(model, make_optimizer(model, TrainSection()), 1)
    assert model.weight.grad is None


def test_what_has_no_gradient_stays():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).to(torch.bfloat16)
    before = model[1].weight.clone()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    make_optimizer(model, TrainSection()).step()
    assert torch.equal(model[1].weight, before)
