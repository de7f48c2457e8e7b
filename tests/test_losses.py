"""Summed losses equal the plain ones, and never make the whole matrix of logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmkit import losses
from llmkit.batch import IGNORE_INDEX, count_targets
from llmkit.losses import (
    LossOptions,
    causal_lm_loss_sum,
    has_plain_head,
    regression_loss_sum,
    rounded,
    summed_cross_entropy,
)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 290, (3, 20), generator=generator)
    targets = torch.randint(0, 290, (3, 20), generator=generator)
    targets[:, :7] = IGNORE_INDEX
    return {"input_ids": ids, "targets": targets}


def test_chunks_give_the_loss_and_the_gradients_of_the_whole(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 1)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(200, 8, generator=generator), torch.randn(50, 8, generator=generator)
    targets = torch.randint(0, 50, (200,), generator=generator)
    results = []
    for loss in (summed_cross_entropy, lambda h, w, t: F.cross_entropy(h @ w.T, t, reduction="sum")):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        total = loss(h, w, targets) * 0.5
        total.backward()
        results.append((total.detach(), h.grad, w.grad))
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, atol=1e-3, rtol=1e-5)


def test_masked_prompt_adds_nothing_to_the_loss(tiny_model, batch):
    logits = tiny_model(batch["input_ids"]).logits[:, 7:]
    expected = F.cross_entropy(logits.flatten(0, 1), batch["targets"][:, 7:].flatten(), reduction="sum")
    assert causal_lm_loss_sum(tiny_model, batch).item() == pytest.approx(expected.item(), rel=1e-6)
    assert count_targets(batch) == 3 * 13


def test_padding_on_the_right_changes_nothing(tiny_model, batch):
    padded = {
        "input_ids": F.pad(batch["input_ids"], (0, 9), value=3),
        "targets": F.pad(batch["targets"], (0, 9), value=IGNORE_INDEX),
    }
    assert causal_lm_loss_sum(tiny_model, padded).item() == pytest.approx(
        causal_lm_loss_sum(tiny_model, batch).item(), rel=1e-6
    )


def test_a_frozen_head_gets_no_gradient(tiny_model, batch):
    tiny_model.get_output_embeddings().weight.requires_grad_(False)
    causal_lm_loss_sum(tiny_model, batch).backward()
    assert tiny_model.get_output_embeddings().weight.grad is None
    assert tiny_model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_a_frozen_head_is_rounded_once_and_anew_when_it_changes():
    weight = torch.randn(6, 4)
    first = rounded(weight, torch.bfloat16)
    assert rounded(weight, torch.bfloat16) is first
    assert rounded(weight, torch.float32) is weight
    weight.mul_(2)
    assert torch.equal(rounded(weight, torch.bfloat16), weight.bfloat16())
    weight.data = torch.zeros(6, 4)
    assert not rounded(weight, torch.bfloat16).any()
    trained = torch.randn(6, 4, requires_grad=True)
    assert rounded(trained, torch.bfloat16) is not rounded(trained, torch.bfloat16)


def test_capped_logits_are_not_taken_for_plain_ones(tiny_tokenizer, batch):
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    section = ModelSection(type="cohere", num_layers=1, hidden_size=32, num_heads=2)
    model = build_causal_lm(section, vocab_size=300, seq_len=32, tokenizer=tiny_tokenizer, seed=0).eval()
    assert not has_plain_head(model)
    logits = model(batch["input_ids"]).logits.flatten(0, 1)
    expected = F.cross_entropy(logits, batch["targets"].flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
    assert causal_lm_loss_sum(model, batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_regression_is_summed_over_all_numbers():
    model = torch.nn.Identity()
    batch = {"inputs": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "targets": torch.tensor([[0.0, 2.0], [3.0, 7.0]])}
    assert regression_loss_sum(model, batch).item() == 1 + 9
    assert count_targets(batch) == 4


def slow_loss(logits, targets, smoothing, z_loss):
    """By the definitions: smoothed cross-entropy, and the squared logarithm of the denominator."""
    log_total = logits.exp().sum(-1).log()
    spread = (logits - log_total[:, None]).mean(-1)
    at_target = logits.gather(1, targets[:, None])[:, 0] - log_total
    return (-(1 - smoothing) * at_target - smoothing * spread + z_loss * log_total**2).sum()


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.1, 0.0), (0.0, 1e-2), (0.2, 1e-3)])
def test_label_smoothing_and_z_loss_are_what_their_definitions_say(monkeypatch, smoothing, z_loss):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 1)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(150, 8, generator=generator), torch.randn(50, 8, generator=generator)
    targets = torch.randint(0, 50, (150,), generator=generator)
    results = []
    for loss in (
        lambda h, w: summed_cross_entropy(h, w, targets, LossOptions(smoothing, z_loss)),
        lambda h, w: slow_loss(h @ w.T, targets, smoothing, z_loss),
    ):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        total = loss(h, w)
        total.backward()
        results.append((total.detach(), h.grad, w.grad))
    for ours, slow in zip(*results, strict=True):
        assert torch.allclose(ours, slow, atol=1e-3, rtol=1e-5)


def test_a_head_that_is_not_plain_is_smoothed_alike(tiny_tokenizer, batch):
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    section = ModelSection(type="cohere", num_layers=1, hidden_size=32, num_heads=2)
    model = build_causal_lm(section, vocab_size=300, seq_len=32, tokenizer=tiny_tokenizer, seed=0).eval()
    logits = model(batch["input_ids"]).logits[:, 7:].flatten(0, 1)
    expected = slow_loss(logits, batch["targets"][:, 7:].flatten(), 0.1, 1e-2)
    ours = causal_lm_loss_sum(model, batch, label_smoothing=0.1, z_loss=1e-2)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


def test_nothing_is_made_for_a_backward_pass_that_will_not_come(tiny_model, batch, monkeypatch):
    monkeypatch.setattr(losses, "loss_and_grad", lambda *a: pytest.fail("a gradient was computed"))
    with torch.no_grad():
        assert causal_lm_loss_sum(tiny_model, batch).item() > 0
