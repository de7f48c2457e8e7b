"""Tiny recipes to verify: a model of text, one that is tuned on dialogues, a network for digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PRETRAIN = """kind: pretrain
model: {num_layers: 1, hidden_size: 32, num_heads: 2}
train: {steps: 4, batch_size: 4, seq_len: 32}
"""
FINETUNE = """kind: finetune
lora: {rank: 16}
train: {epochs: 1, batch_size: 4}
"""
BASELINE = """kind: baseline
model: {kind: mlp, hidden_size: 8}
data: {source: digits}
"""


@pytest.fixture
def recipes(tmp_path):
    """The three recipes as files."""
    for name, text in (("pretrain", PRETRAIN), ("finetune", FINETUNE), ("baseline", BASELINE)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture(scope="session")
def chats(tmp_path_factory, texts):
    """Dialogues of one turn and of two."""
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    rows = []
    for number, text in enumerate(texts[:16]):
        turns = [("user", text[:20]), ("assistant", text[20:50])] * (1 + number % 2)
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def open_named(recipes, prepared_folder, tiny_model_folder, chats):
    """A case of one of the recipes."""
    from llmkit.commands.checks.opening import Named, open_case

    def open_(kind, *overrides):
        named = {
            "pretrain": Named(str(recipes / "pretrain.yaml"), str(prepared_folder), None, overrides),
            "finetune": Named(str(recipes / "finetune.yaml"), str(chats), str(tiny_model_folder), overrides),
            "baseline": Named(str(recipes / "baseline.yaml"), None, None, overrides),
            "model": Named(str(tiny_model_folder), None, None, overrides),
        }[kind]
        scratch = Path(recipes / "scratch")
        scratch.mkdir(exist_ok=True)
        return open_case(named, scratch)

    return open_
