"""What training takes is reckoned from the model: arithmetic exactly, memory roughly."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from llmkit.losses import causal_lm_loss_sum
from llmkit.models.causal_lm import make_config
from llmkit.models.compile import Engine
from llmkit.models.flops import activation_bytes, flops_per_token
from llmkit.recipe.schema import ModelSection


def build(kind="llama", *, layers=2, width=32, vocab_size=100, seq_len=64, **fields):
    section = ModelSection(type=kind, num_layers=layers, hidden_size=width, num_heads=2, **fields)
    return AutoModelForCausalLM.from_config(make_config(section, vocab_size=vocab_size, seq_len=seq_len)).train()


def test_a_small_llama_by_hand():
    model = build(intermediate_size=64)
    layer = 4 * 32 * 32 + 3 * 32 * 64
    assert flops_per_token(model, 10) == 6 * (2 * layer + 100 * 32) + 6 * 2 * 32 * 10


def test_a_tied_head_counts_as_much_as_one_of_its_own():
    tied, own = build(tie_embeddings=True), build(tie_embeddings=False)
    assert flops_per_token(tied, 10) == flops_per_token(own, 10)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_it_is_what_torch_counts_but_for_the_future_that_attention_does_not_see(kind):
    model, tokens = build(kind), 64
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, tokens, dtype=torch.int64)).logits.sum().backward()
    future = 6 * 2 * 32 * tokens
    # Rotary embeddings multiply positions and frequencies, once for all layers: no weight takes part.
    assert counter.get_total_flops() == pytest.approx(tokens * (flops_per_token(model, tokens) + future), rel=2e-3)


def test_frozen_weights_are_spared_the_gradient_of_their_own():
    model = build(intermediate_size=64)
    layer = 4 * 32 * 32 + 3 * 32 * 64
    for block in model.model.layers:
        block.requires_grad_(False)
    assert flops_per_token(model, 10) == 4 * 2 * layer + 6 * 100 * 32 + 6 * 2 * 32 * 10


def test_of_experts_only_those_that_are_chosen_count():
    fields = {"num_local_experts": 8, "num_experts_per_tok": 2}
    model = build("mixtral", intermediate_size=64, overrides=fields)
    layer = 4 * 32 * 32 + 2 * 3 * 32 * 64 + 8 * 32
    assert flops_per_token(model, 10) == 6 * (2 * layer + 100 * 32) + 6 * 2 * 32 * 10


def kept_bytes(model, rows, dtype):
    """What autograd keeps for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept, alive = {}, []

    def keep(tensor):
        alive.append(tensor)
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = 0 if storage.data_ptr() in weights else storage.nbytes()
        return tensor

    ids = torch.zeros(rows, 128, dtype=torch.int64)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16),
    ):
        causal_lm_loss_sum(model, {"input_ids": ids, "targets": ids})
    return sum(kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_activations_are_estimated_to_about_a_third(kind, attention, dtype):
    model = build(kind, layers=4, width=128, vocab_size=64, seq_len=128)
    model.set_attn_implementation(attention)

    def estimate(rows):
        return activation_bytes(model, rows=rows, seq_len=128, dtype=dtype, engine=Engine(attention, False))

    kept = kept_bytes(model, 4, dtype) - kept_bytes(model, 2, dtype)
    assert estimate(4) - estimate(2) == pytest.approx(kept, rel=0.35)


def test_checkpointing_and_compiling_are_estimated_to_spare_memory():
    model = build(layers=8, width=64)

    def estimate(is_compiled=False, is_checkpointed=False):
        engine = Engine("sdpa", is_compiled)
        options = {"rows": 64, "seq_len": 64, "dtype": torch.float32}
        return activation_bytes(model, engine=engine, is_checkpointed=is_checkpointed, **options)

    assert estimate(is_checkpointed=True) < 0.5 * estimate()
    assert estimate(is_compiled=True) < 0.7 * estimate()
