"""Products of adapted layers in bf16 are those of PEFT under autocast, made in fewer passes."""

from __future__ import annotations

import copy

import pytest
import torch
from peft.tuners.lora import LoraLayer

from llmkit.losses import causal_lm_loss_sum
from llmkit.models.lora import adapter_off, attach_lora
from llmkit.models.lora_products import JoinedForward, JoinedProduct, hold_in_bf16, join_products
from llmkit.recipe.schema import LoraSection

IDS = torch.arange(24)[None] % 290
BATCH = {"input_ids": IDS, "targets": IDS.roll(-1, 1)}


def adapted(model, **options):
    """A model with an adapter that has left its beginning, where its second matrices are zero."""
    found = attach_lora(copy.deepcopy(model), LoraSection(**options), base="base", seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.05)
    return found


def measured(model):
    """Loss and gradients under autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = causal_lm_loss_sum(model, BATCH)
    loss.backward()
    return loss.item(), [p.grad for p in model.parameters() if p.requires_grad]


def joined_layers(model):
    return [m for m in model.modules() if isinstance(m.__dict__.get("forward"), JoinedForward)]


def test_frozen_matrices_in_bf16_change_nothing_under_autocast(tiny_model):
    plain, held = adapted(tiny_model), adapted(tiny_model)
    assert hold_in_bf16(held) == sum(m.weight.numel() for n, m in tiny_model.named_modules() if n.endswith("_proj"))
    (loss, grads), (held_loss, held_grads) = measured(plain), measured(held)
    assert loss == held_loss
    assert all(torch.equal(a, b) for a, b in zip(grads, held_grads, strict=True))


@pytest.mark.parametrize("options", [{}, {"rslora": True}])
def test_joined_products_are_as_near_to_fp32_as_pefts_own(tiny_model, options):
    exact, plain, joined = (adapted(tiny_model, **options) for _ in range(3))
    for model in (plain, joined):
        hold_in_bf16(model)
    join_products(joined)
    assert len(joined_layers(joined)) == sum(isinstance(m, LoraLayer) for m in joined.modules()) > 0
    loss = causal_lm_loss_sum(exact, BATCH)
    loss.backward()
    wanted = torch.cat([p.grad.flatten() for p in exact.parameters() if p.requires_grad])
    errors = []
    for found, grads in (measured(plain), measured(joined)):
        assert found == pytest.approx(loss.item(), rel=2e-3)
        errors.append((torch.cat([grad.flatten() for grad in grads]) - wanted).norm() / wanted.norm())
    assert errors[1] < 1.2 * errors[0] < 0.05


def test_a_joined_product_is_its_formula():
    torch.manual_seed(0)
    states, weight, bias = torch.randn(2, 5, 8), torch.randn(6, 8), torch.randn(6)
    down, up, grad = torch.randn(3, 8), torch.randn(6, 3), torch.randn(2, 5, 6)
    leaves = [x.double().requires_grad_() for x in (states, down, up)]
    out = leaves[0] @ weight.double().T + bias + 0.5 * (leaves[0] @ leaves[1].T) @ leaves[2].T
    out.backward(grad.double())
    mine = [states.bfloat16().requires_grad_(), down.clone().requires_grad_(), up.clone().requires_grad_()]
    found = JoinedProduct.apply(mine[0], weight.bfloat16(), bias, mine[1], mine[2], 0.5)
    found.backward(grad.bfloat16())
    for wanted, got in [(out, found), *((a.grad, b.grad) for a, b in zip(leaves, mine, strict=True))]:
        assert (wanted - got).norm() < 0.02 * wanted.norm()
    assert [x.grad.dtype for x in mine] == [torch.bfloat16, torch.float32, torch.float32]


def test_layers_that_are_given_the_same_round_it_once(tiny_model):
    model = adapted(tiny_model)
    hold_in_bf16(model)
    join_products(model)
    attention, given = model.base_model.model.model.layers[0].self_attn, []
    for name in ("q_proj", "k_proj", "v_proj"):
        layer = getattr(attention, name)
        layer.forward = lambda states, forward=layer.forward: (given.append(states), forward(states))[1]
    measured(model)
    assert given[0].dtype == torch.bfloat16
    assert given[0] is given[1] is given[2]


def test_with_its_adapter_off_a_joined_model_is_what_it_was(tiny_model):
    model = adapted(tiny_model)
    hold_in_bf16(model)
    join_products(model)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted, other = tiny_model(input_ids=IDS).logits, model(input_ids=IDS).logits
        with adapter_off(model):
            assert torch.equal(model(input_ids=IDS).logits, wanted)
    assert not torch.equal(other, wanted)


def test_layers_with_dropout_are_left_to_peft(tiny_model):
    model = adapted(tiny_model, dropout=0.5)
    hold_in_bf16(model)
    join_products(model)
    assert joined_layers(model) == []
    assert measured(model.train())[0] != measured(model.eval())[0]


def test_embeddings_norms_and_the_head_stay_in_fp32(tiny_model):
    model = adapted(tiny_model)
    hold_in_bf16(model)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    assert all((dtype == torch.bfloat16) == ("base_layer" in name) for name, dtype in kinds.items())


def test_dora_keeps_its_matrices_whole(tiny_model):
    assert hold_in_bf16(adapted(tiny_model, dora=True)) == 0
