"""Kinds of adapters: rsLoRA, DoRA, LoRA+, an adapter switched off, one that is trained on."""

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
    merge_lora,
    quiet_peft,
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
