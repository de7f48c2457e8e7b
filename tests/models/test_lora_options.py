"""Kinds of adapters: rsLoRA, DoRA, LoRA+, frozen matrices in bf16, an adapter switched off, one that is trained on."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from llmkit.losses import causal_lm_loss_sum
from llmkit.models.causal_lm import load_causal_lm, save_causal_lm
from llmkit.models.lora import (
    adapter_off,
    attach_lora,
    continue_adapter,
    hold_in_bf16,
    merge_lora,
    quiet_peft,
    share_casts,
)
from llmkit.recipe.schema import LoraSection, TrainSection
from llmkit.training.optim import parameter_groups

IDS = torch.arange(24)[None] % 290
BATCH = {"input_ids": IDS, "targets": IDS.roll(-1, 1)}


def adapted(model, **options):
    return attach_lora(copy.deepcopy(model), LoraSection(**options), base="base", seed=0)


def train(model, steps=3, lr=1e-2):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        causal_lm_loss_sum(model, BATCH).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("options", [{"rslora": True}, {"dora": True}, {"rank": 64, "rslora": True, "dora": True}])
def test_at_the_start_every_kind_of_adapter_changes_nothing_and_merges_as_it_is(tiny_model, options):
    model = adapted(tiny_model, **options)
    assert torch.allclose(logits(model), logits(tiny_model), atol=1e-5)
    wanted = logits(train(model))
    assert not torch.allclose(wanted, logits(tiny_model), atol=1e-3)
    assert torch.allclose(logits(merge_lora(model)), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "scale"), [({"rank": 16, "alpha": 32}, 2.0), ({"rank": 16, "alpha": 32, "rslora": True}, 8.0)]
)
def test_rslora_scales_by_the_root_of_the_rank(tiny_model, options, scale):
    layer = adapted(tiny_model, **options).base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == scale


def test_second_matrices_learn_at_their_own_pace(tiny_model):
    model = adapted(tiny_model, b_lr_ratio=16)
    groups = parameter_groups(model, TrainSection(lr=1e-3))
    paces = {
        name: group["lr_scale"]
        for group in groups
        for name, p in model.named_parameters()
        for q in group["params"]
        if p is q
    }
    assert {pace for name, pace in paces.items() if "lora_B" in name} == {16.0}
    assert {pace for name, pace in paces.items() if "lora_A" in name} == {1.0}


def test_frozen_matrices_in_bf16_change_nothing_under_autocast(tiny_model):
    results = []
    for held in (False, True):
        model = adapted(tiny_model)
        if held:
            assert hold_in_bf16(model) == sum(
                m.weight.numel() for n, m in tiny_model.named_modules() if n.endswith("_proj")
            )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = causal_lm_loss_sum(model, BATCH)
        loss.backward()
        results.append((loss.item(), [p.grad for p in model.parameters() if p.requires_grad]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


def inputs_of(parent, names):
    """What the base layers of these are given, as it comes."""
    kept = []
    for name in names:
        getattr(parent, name).base_layer.register_forward_hook(lambda m, given, out: kept.append(given[0]))
    return kept


def test_layers_that_are_given_the_same_round_it_once_and_to_the_same(tiny_model):
    results = []
    for shared in (False, True):
        model = adapted(tiny_model)
        hold_in_bf16(model)
        if shared:
            share_casts(model)
        layer = model.base_model.model.model.layers[0]
        kept = inputs_of(layer.self_attn, ("q_proj", "k_proj", "v_proj"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = causal_lm_loss_sum(model, BATCH)
        loss.backward()
        results.append((loss.item(), [p.grad for p in model.parameters() if p.requires_grad]))
        assert (kept[0].dtype == torch.bfloat16) == shared
        assert kept[0] is kept[1] is kept[2]
    assert results[0][0] == results[1][0]
    for plain, shared in zip(*(grads for _, grads in results), strict=True):
        assert (plain - shared).norm() <= 0.02 * plain.norm()


def test_embeddings_norms_and_the_head_stay_in_fp32(tiny_model):
    model = adapted(tiny_model)
    hold_in_bf16(model)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    assert all((dtype == torch.bfloat16) == ("base_layer" in name) for name, dtype in kinds.items())


def test_dora_keeps_its_matrices_whole(tiny_model):
    assert hold_in_bf16(adapted(tiny_model, dora=True)) == 0


def test_with_its_adapter_off_a_model_is_what_it_was_and_learns_on(tiny_model):
    model = train(adapted(tiny_model))
    wanted = logits(model)
    with adapter_off(model):
        assert torch.allclose(logits(model), logits(tiny_model), atol=1e-6)
        assert any(p.requires_grad for p in model.parameters())
    assert torch.equal(logits(model), wanted)


def test_layers_that_an_adapter_holds_whole_are_trained_on_too(tiny_model, tiny_tokenizer, tmp_path):
    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "base")
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["norm"])
    with quiet_peft():
        model = get_peft_model(copy.deepcopy(tiny_model), config)
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    save_causal_lm(model, tiny_tokenizer, tmp_path / "adapter")
    again = continue_adapter(load_causal_lm(tmp_path / "adapter"), LoraSection())
    names = [name for name, p in again.named_parameters() if p.requires_grad]
    assert any("norm.modules_to_save" in name for name in names)
    assert names == [name for name, p in model.named_parameters() if p.requires_grad]


def test_an_adapter_that_is_continued_goes_on_from_where_it_was(tiny_model, tiny_tokenizer, tmp_path):
    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "base")
    model = attach_lora(copy.deepcopy(tiny_model), LoraSection(), base=tmp_path / "base", seed=0)
    wanted = logits(train(model))
    save_causal_lm(model, tiny_tokenizer, tmp_path / "adapter")
    again = continue_adapter(load_causal_lm(tmp_path / "adapter"), LoraSection(b_lr_ratio=4))
    assert torch.allclose(logits(again), wanted, atol=1e-6)
    names = [name for name, p in again.named_parameters() if p.requires_grad]
    assert names == [name for name, p in model.named_parameters() if p.requires_grad]
    before = causal_lm_loss_sum(again, BATCH).item()
    assert causal_lm_loss_sum(train(again), BATCH).item() < before
    save_causal_lm(again, tiny_tokenizer, tmp_path / "longer")
    assert torch.equal(logits(load_causal_lm(tmp_path / "longer")), logits(again))
