"""The learning rate and the groups of AdamW."""

from __future__ import annotations

import pytest

from llmkit.recipe.schema import TrainSection
from llmkit.training.optim import lr_at, make_optimizer


def test_lr_rises_over_the_warmup_and_falls_to_its_floor():
    config = TrainSection(lr=1.0, warmup_steps=4, min_lr_ratio=0.1)
    values = [lr_at(step, config, num_steps=20) for step in range(20)]
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values == sorted(values[:5]) + sorted(values[5:], reverse=True)
    assert values[-1] == pytest.approx(0.1)


def test_a_linear_schedule_is_a_line_and_a_constant_one_stays():
    linear = TrainSection(lr=1.0, warmup_steps=0, min_lr_ratio=0.0, schedule="linear")
    assert [lr_at(s, linear, num_steps=5) for s in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    constant = TrainSection(lr=1.0, warmup_steps=0, schedule="constant")
    assert lr_at(99, constant, num_steps=100) == 1.0


def test_norms_and_embeddings_do_not_decay(tiny_model):
    names = {p: n for n, p in tiny_model.named_parameters()}
    groups = make_optimizer(tiny_model, TrainSection(weight_decay=0.1)).param_groups
    decaying = {names[p] for p in groups[0]["params"]}
    assert groups[0]["weight_decay"] == 0.1
    assert "model.layers.0.mlp.up_proj.weight" in decaying
    assert {names[p] for p in groups[1]["params"]} >= {"model.norm.weight", "model.embed_tokens.weight"}
    assert groups[1]["weight_decay"] == 0.0
