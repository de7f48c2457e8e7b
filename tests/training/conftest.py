"""What the tests of training share: small runs (small_runs.py), and a model of the size that they take."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest


@pytest.fixture
def make_model(tiny_tokenizer):
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    def make(dropout=0.0):
        overrides = {"attention_dropout": dropout}
        section = ModelSection(num_layers=2, hidden_size=32, num_heads=2, overrides=overrides)
        return build_causal_lm(section, vocab_size=300, seq_len=64, tokenizer=tiny_tokenizer, seed=0)

    return make
