"""Only the last layers are trained, and the norm behind them."""

from __future__ import annotations

import pytest

from llmkit.errors import ModelError
from llmkit.models.last_layers import train_last_layers


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_last_layer_and_the_final_norm_are_trained(tiny_model):
    names = trained(train_last_layers(tiny_model, 1))
    assert names == {n for n, _ in tiny_model.named_parameters() if n.startswith("model.layers.1.")} | {
        "model.norm.weight"
    }


def test_embeddings_of_unknown_tokens_are_trained_too(tiny_model):
    assert "model.embed_tokens.weight" in trained(train_last_layers(tiny_model, 1, with_embeddings=True))


def test_all_layers_are_no_last_layers(tiny_model):
    with pytest.raises(ModelError, match="2 layers, and the last 2"):
        train_last_layers(tiny_model, 2)
