"""Noise on embeddings: of the size that the paper names, while training only."""

from __future__ import annotations

import torch

from llmkit.losses import body_of, causal_lm_loss_sum
from llmkit.models.neftune import add_noise, lengths_at

IDS = torch.tensor([[5, 6, 7, 8, 9]])
POSITIONS = torch.tensor([[0, 1, 2, 0, 1]])


def test_lengths_are_those_of_the_documents():
    assert lengths_at(POSITIONS).tolist() == [[3, 3, 3, 2, 2]]


def embedded(model, **options):
    seen = []
    handle = model.get_input_embeddings().register_forward_hook(lambda layer, given, out: seen.append(out.detach()))
    body_of(model)(input_ids=IDS, use_cache=False, **options)
    handle.remove()
    return seen[0]


def test_noise_is_within_its_bound_for_each_document_and_fills_it(tiny_model):
    plain = tiny_model.get_input_embeddings()(IDS).detach()
    add_noise(tiny_model, 5.0)
    torch.manual_seed(0)
    noise = (embedded(tiny_model.train(), position_ids=POSITIONS) - plain).abs()
    bounds = [5.0 / (length * 32) ** 0.5 for length in (3, 3, 3, 2, 2)]
    for place, bound in enumerate(bounds):
        assert 0.8 * bound < noise[0, place].max() <= bound


def test_a_model_in_eval_mode_has_no_noise(tiny_model):
    batch = {"input_ids": IDS, "targets": IDS}
    before = causal_lm_loss_sum(tiny_model, batch).item()
    add_noise(tiny_model, 5.0)
    assert causal_lm_loss_sum(tiny_model.eval(), batch).item() == before
    assert causal_lm_loss_sum(tiny_model.train(), batch).item() != before
