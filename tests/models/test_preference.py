"""Losses of pairs are the slow, obvious ones; the reference is the model without its adapter."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from llmkit.batch import IGNORE_INDEX
from llmkit.models import preference
from llmkit.models.lora import attach_lora
from llmkit.models.preference import (
    PreferenceLoss,
    answer_log_likelihoods,
    token_log_likelihoods,
)
from llmkit.recipe.schema import LoraSection

DOCUMENTS = [
    ([5, 6, 7, 8], [-100, -100, 8, 9]),
    ([5, 6, 11], [-100, -100, 12]),
    ([20, 21, 22, 23, 24], [-100, 22, 23, 24, 25]),
    ([20, 21, 30], [-100, 30, 31]),
]
"""Two pairs: ids and what each position predicts in the answer."""


def flat_batch():
    ids = [i for row, _ in DOCUMENTS for i in row]
    answers = [a for _, row in DOCUMENTS for a in row]
    return {
        "input_ids": torch.tensor([ids]),
        "answers": torch.tensor([answers]),
        "position_ids": torch.tensor([[p for row, _ in DOCUMENTS for p in range(len(row))]]),
        "documents": torch.tensor([[n for n, (row, _) in enumerate(DOCUMENTS) for _ in row]]),
        "targets": torch.zeros(2, dtype=torch.int64),
    }


@torch.no_grad()
def by_hand(model):
    """Log-likelihoods of the four answers, one document at a time."""
    sums = []
    for ids, answers in DOCUMENTS:
        shares = F.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].float(), dim=-1)
        sums.append(sum(float(shares[t, a]) for t, a in enumerate(answers) if a != IGNORE_INDEX))
    return sums


@pytest.fixture
def moved(tiny_model):
    """A model with an adapter that has left its beginning."""
    model = attach_lora(copy.deepcopy(tiny_model), LoraSection(), base="base", seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0.0, 0.1)
    return model.eval()


def test_answers_are_as_likely_as_one_by_one(tiny_model):
    found = answer_log_likelihoods(tiny_model, flat_batch())
    assert found.log_likelihoods.tolist() == pytest.approx(by_hand(tiny_model), rel=1e-5)
    assert found.num_tokens.tolist() == [2, 1, 4, 2]


def test_dpo_is_the_formula_with_the_model_without_its_adapter_as_reference(tiny_model, moved):
    loss = PreferenceLoss("dpo", 0.3)
    found = loss(moved, flat_batch()).item()
    policy, reference = by_hand(moved), by_hand(tiny_model)
    rewards = [0.3 * (p - r) for p, r in zip(policy, reference, strict=True)]
    margins = [rewards[0] - rewards[1], rewards[2] - rewards[3]]
    assert found == pytest.approx(sum(math.log(1 + math.exp(-m)) for m in margins), rel=1e-4)
    measures = loss.take_measures()
    assert measures["rewards_chosen"] == pytest.approx(rewards[0] + rewards[2], rel=1e-3)
    assert measures["reward_margin"] == pytest.approx(sum(margins), rel=1e-3)
    assert measures["reward_accuracy"] == sum(m > 0 for m in margins)
    assert loss.take_measures()["reward_margin"] == 0


def test_at_its_beginning_dpo_is_log_two_a_pair(tiny_model):
    model = attach_lora(copy.deepcopy(tiny_model), LoraSection(), base="base", seed=0)
    assert PreferenceLoss("dpo", 0.1)(model, flat_batch()).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_a_reference_that_was_measured_before_stands_for_the_adapter(tiny_model, moved):
    reference = torch.tensor(by_hand(tiny_model)).view(2, 2)
    wanted = PreferenceLoss("dpo", 0.3)(moved, flat_batch()).item()
    assert PreferenceLoss("dpo", 0.3)(moved, {**flat_batch(), "reference": reference}).item() == pytest.approx(
        wanted, rel=1e-4
    )


def test_orpo_is_the_formula(moved):
    found = PreferenceLoss("orpo", 0.5)(moved, flat_batch()).item()
    means = [total / count for total, count in zip(by_hand(moved), (2, 1, 4, 2), strict=True)]
    odds = [math.log(math.exp(m) / (1 - math.exp(m))) for m in means]
    wanted = 0.0
    for i in (0, 2):
        wanted += -means[i] + 0.5 * math.log(1 + math.exp(-(odds[i] - odds[i + 1])))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_a_pair_that_does_not_count_adds_nothing(moved):
    batch = flat_batch()
    first = PreferenceLoss("dpo", 0.3)(moved, {**batch, "targets": torch.tensor([0, IGNORE_INDEX])}).item()
    second = PreferenceLoss("dpo", 0.3)(moved, {**batch, "targets": torch.tensor([IGNORE_INDEX, 0])}).item()
    assert first + second == pytest.approx(PreferenceLoss("dpo", 0.3)(moved, batch).item(), rel=1e-5)


def test_chunked_likelihoods_and_their_gradients_are_torchs_own(monkeypatch):
    monkeypatch.setattr(preference, "CHUNK_LOGITS", 64 * 11)
    torch.manual_seed(0)
    hidden, weight = torch.randn(150, 8), torch.randn(11, 8)
    targets, pull = torch.randint(11, (150,)), torch.randn(150)
    results = []
    for compute in (
        lambda h, w: token_log_likelihoods(h, w, targets),
        lambda h, w: -F.cross_entropy(h @ w.T, targets, reduction="none"),
    ):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        out = compute(h, w)
        (out * pull).sum().backward()
        results.append((out, h.grad, w.grad))
    for ours, torchs in zip(*results, strict=True):
        assert torch.allclose(ours, torchs, atol=1e-4)


@pytest.mark.parametrize("kind", ["dpo", "orpo"])
def test_training_on_pairs_raises_the_margin(tiny_model, kind):
    model = attach_lora(copy.deepcopy(tiny_model), LoraSection(), base="base", seed=0)
    loss, optimizer = (
        PreferenceLoss(kind, 0.5),
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2),
    )
    values = []
    for _ in range(10):
        values.append(loss(model, flat_batch()))
        values[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    loss.take_measures()
    assert loss(model, flat_batch()).item() < values[0].item()
    assert loss.take_measures()["reward_accuracy"] == 2
