"""What training a model takes, reckoned beforehand: arithmetic per token, and memory of activations.

Letters: L layers, H heads, K head size, T positions, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from llmkit.losses import CHUNK_LOGITS, FROZEN_CHUNK_LOGITS, head_of, unwrap
from llmkit.models.compile import Engine

KEPT = {torch.float32: 1.2, torch.bfloat16: 1.45}
"""What the layers keep for the backward pass, as a share of what goes into and comes out of their matrices: activation
functions and rotations keep some of it twice, and autocast keeps copies in bf16 beside."""
KEPT_COMPILED = 0.4
"""How much of that is left when the layers are compiled: cheap things are computed again."""
BYTES_PER_LOGIT = {torch.float32: 12, torch.bfloat16: 10}
"""Logits, their logarithms and their gradients, while a chunk of them exists."""


class Matrix(NamedTuple):
    """A matrix that activations are multiplied with."""

    numel: float
    """Weights that take part for a token: of experts, those that are chosen."""
    width: float
    """Numbers that go in and come out for a token."""
    is_trained: bool


def flops_per_token(model: nn.Module, seq_len: int) -> float:
    """FLOPs of the forward and the backward pass for each token that is trained.

    Six for each weight that is multiplied: two forward, two for the gradient of the activations, two for that of the
    weight, which frozen weights are spared. The output head counts, tied or not; to look up an embedding is free.
    Causal attention multiplies half of all pairs: 6 L H K T. (Kaplan et al. 2020, arXiv:2001.08361; Chowdhery et al.
    2022, arXiv:2204.02311, appendix B.) A sliding window is not taken into account.
    """
    products = sum((6 if matrix.is_trained else 4) * matrix.numel for matrix in matrices(model))
    config = text_config(model)
    heads = num_heads(model)
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(1, heads))
    return products + 6.0 * float(config.num_hidden_layers * width * seq_len)


def matrices(model: nn.Module) -> Iterator[Matrix]:
    """All matrices that are multiplied, a shared one where it is."""
    chosen = getattr(text_config(model), "num_experts_per_tok", None)
    for module in model.modules():
        for parameter in [] if isinstance(module, nn.Embedding) else module.parameters(recurse=False):
            experts = parameter.shape[0] if parameter.ndim == 3 else 1
            part = min(chosen or experts, experts)
            if parameter.ndim in (2, 3):
                width = part * sum(parameter.shape[-2:])
                yield Matrix(parameter.numel() * part / experts, width, parameter.requires_grad)


def num_heads(model: nn.Module) -> int:
    """Attention heads of a layer; 0 in models that have none."""
    return getattr(text_config(model), "num_attention_heads", None) or 0


def text_config(model: nn.Module) -> Any:
    """The part of a model's configuration that is about language."""
    return unwrap(model).config.get_text_config()


def activation_bytes(
    model: nn.Module,
    *,
    rows: int,
    seq_len: int,
    dtype: torch.dtype,
    engine: Engine,
    is_checkpointed: bool = False,
) -> float:
    """Memory of a forward and backward pass over `rows` rows beside weights and gradients, to about a third.

    Args:
        model: What is trained; one without an output head makes no logits.
        rows: In one micro-batch.
        seq_len: Positions of each.
        dtype: Of the matrix products; weights and what runs between layers are in fp32.
        engine: How attention is computed, and whether the model is compiled.
        is_checkpointed: With gradient checkpointing only the input of each layer is kept, and one layer at a time.
    """
    config, head = text_config(model), getattr(head_of(model), "weight", torch.empty(0, 0))
    tokens, layers, size = rows * seq_len, config.num_hidden_layers, dtype.itemsize
    width = sum(matrix.width for matrix in matrices(model)) - sum(head.shape)
    # Two norms a layer keep their input and their result in fp32, the former for the rest of the layer too.
    inside = KEPT[dtype] * size * width + 16.0 * config.hidden_size * layers
    # Plain products keep the probabilities; eager attention the scores besides, in fp32 and masked.
    pairs = {"products": size, "eager": 8}.get(engine.attention, 0)
    inside += pairs * layers * num_heads(model) * seq_len
    inside *= KEPT_COMPILED if engine.is_compiled else 1.0
    if is_checkpointed:
        inside = inside / layers + 4.0 * config.hidden_size * layers
    chunk = CHUNK_LOGITS if head.requires_grad else FROZEN_CHUNK_LOGITS
    logits = min(tokens * head.shape[0], max(chunk, 64 * head.shape[0])) * BYTES_PER_LOGIT[dtype]
    copies = size * sum(matrix.numel for matrix in matrices(model)) if dtype == torch.bfloat16 else 0
    return float(tokens * inside + logits + 4.0 * head.requires_grad * head.numel() + copies)
