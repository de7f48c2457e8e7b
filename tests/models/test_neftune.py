"""Noise on embeddings: of the size that the paper names, while training only."""

from __future__ import annotations

import torch

from llmkit.losses import body_of, causal_lm_loss_sum, unwrap
from llmkit.models.lora import attach_lora
from llmkit.models.neftune import add_noise, lengths_at, lengths_of_rows
from llmkit.recipe.schema import LoraSection

IDS = torch.tensor([[5, 6, 7, 8, 9]])
POSITIONS = torch.tensor([[0, 1, 2, 0, 1]])


def test_lengths_are_those_of_the_documents():
    assert lengths_at(POSITIONS).tolist() == [[3, 3, 3, 2, 2]]


def test_lengths_of_padded_rows_end_where_their_last_id_begins_to_repeat():
    assert lengths_of_rows(torch.tensor([[5, 6, 7, 8], [5, 7, 7, 7], [5, 5, 5, 5], [5, 5, 6, 6]])).tolist() == [
        [4],
        [2],
        [1],
        [3],
    ]


def embedded(model, ids=IDS, **options):
    seen = []
    layer = unwrap(model).get_input_embeddings()
    handle = layer.register_forward_hook(lambda layer, given, out: seen.append(out.detach()))
    body_of(model)(input_ids=ids, use_cache=False, **options)
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


def test_a_padded_row_has_the_noise_that_it_has_alone(tiny_model):
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 6, 6, 6, 6, 6, 6]])
    plain = tiny_model.get_input_embeddings()(ids).detach()
    add_noise(tiny_model, 5.0)
    torch.manual_seed(0)
    noise = (embedded(tiny_model.train(), ids) - plain).abs().amax(dim=(1, 2))
    for place, length in enumerate((8, 2)):
        bound = 5.0 / (length * 32) ** 0.5
        assert 0.9 * bound < noise[place] <= bound


def test_embeddings_whose_rows_are_trained_beside_an_adapter_have_noise(tiny_model):
    adapted = attach_lora(tiny_model, LoraSection(), base="base", seed=0, token_ids=[1, 2])
    add_noise(adapted, 5.0)
    plain = embedded(adapted.eval())
    noise = (embedded(adapted.train()) - plain).abs().max()
    assert 0.8 * 5.0 / (5 * 32) ** 0.5 < noise <= 5.0 / (5 * 32) ** 0.5


def test_a_model_with_noise_writes_on_from_a_cache(tiny_model):
    add_noise(tiny_model, 5.0)
    model = tiny_model.eval()
    first = model(IDS, position_ids=torch.arange(5)[None], use_cache=True)
    again = model(IDS[:, :1], position_ids=torch.tensor([[5]]), past_key_values=first.past_key_values)
    assert again.logits.isfinite().all()
