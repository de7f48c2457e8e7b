"""A classifier around a language model: what transformers computes, saved and loaded, adapted or whole."""

from __future__ import annotations

import copy

import pytest
import torch

from llmkit.data.text_labels import TextRows
from llmkit.errors import ModelError
from llmkit.models.causal_lm import load_causal_lm, save_causal_lm
from llmkit.models.classify import (
    add_class_head,
    class_logits,
    class_loss_sum,
    load_classifier,
    predict,
    save_classifier,
)
from llmkit.models.lora import attach_lora
from llmkit.recipe.schema import LoraSection

LABELS = ["noun", "verb", "other"]
TEXTS = ["the next token", "we ask it what comes after that", "class"]
IDS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15]]


@pytest.fixture
def classifier(tiny_model, tiny_tokenizer):
    return add_class_head(copy.deepcopy(tiny_model), LABELS, pad_id=tiny_tokenizer.pad_token_id, seed=0)


@torch.no_grad()
def logits(model, is_flat=False):
    return class_logits(model, TextRows(IDS, [0, 1, 2], is_flat=is_flat).batch([0, 1, 2]))


def test_logits_are_those_of_transformers_own_classifier(classifier):
    with torch.no_grad():
        wanted = torch.cat([classifier(input_ids=torch.tensor([ids])).logits for ids in IDS])
    assert torch.allclose(logits(classifier), wanted, atol=1e-5)
    assert torch.allclose(logits(classifier, is_flat=True), wanted, atol=1e-5)


def test_the_loss_is_summed_over_texts_that_count(classifier):
    batch = TextRows(IDS, [0, 1, 2]).batch([0, 1, 2])
    batch["targets"][1] = -100
    shares = logits(classifier).log_softmax(1)
    assert class_loss_sum(classifier, batch).item() == pytest.approx(-(shares[0, 0] + shares[2, 2]).item(), rel=1e-5)


def learn(model):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(10):
        class_loss_sum(model, TextRows(IDS, [0, 1, 2], is_flat=True).batch([0, 1, 2])).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("is_adapted", [True, False])
def test_what_was_learned_is_saved_and_loaded(classifier, is_adapted, tiny_model, tiny_tokenizer, tmp_path):
    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "base")
    if is_adapted:
        base = tmp_path / "base"
        classifier = attach_lora(classifier, LoraSection(), base=base, seed=0, trained_modules=["score"])
    model = learn(classifier)
    assert logits(model).argmax(1).tolist() == [0, 1, 2]
    save_classifier(model, tiny_tokenizer, tmp_path / "saved")
    loaded = load_classifier(tmp_path / "saved")
    assert loaded.labels == LABELS
    assert torch.allclose(logits(loaded.model), logits(model), atol=1e-6)


def test_only_the_head_and_the_adapters_are_trained(classifier):
    adapted = attach_lora(classifier, LoraSection(), base="base", seed=0, trained_modules=["score"])
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "score.modules_to_save" in name for name in names)
    assert any("score" in name for name in names)


def test_predictions_are_probabilities_in_the_order_of_the_texts(classifier, tiny_tokenizer, tmp_path):
    save_classifier(classifier, tiny_tokenizer, tmp_path / "whole")
    loaded = load_classifier(tmp_path / "whole")
    together = predict(loaded, TEXTS)
    assert torch.allclose(together.sum(1), torch.ones(3))
    assert torch.allclose(together, torch.cat([predict(loaded, [text]) for text in TEXTS]), atol=1e-6)
    assert torch.allclose(together, predict(loaded, TEXTS, batch_tokens=1), atol=1e-6)


def test_a_language_model_is_no_classifier_and_the_other_way_round(
    classifier, tiny_model_folder, tiny_tokenizer, tmp_path
):
    with pytest.raises(ModelError, match="this is no classifier"):
        load_classifier(tiny_model_folder)
    adapted = attach_lora(classifier, LoraSection(), base=tiny_model_folder, seed=0, trained_modules=["score"])
    save_classifier(adapted, tiny_tokenizer, tmp_path / "adapted")
    with pytest.raises(ModelError, match="names classes, it writes no text"):
        load_causal_lm(tmp_path / "adapted")
