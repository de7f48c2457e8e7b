"""Causal attention for training in bf16 on a CPU: two batched products and a softmax.

The CPU kernel of torch gains almost nothing from bf16 hardware: with 256 positions it takes a third of a training step
for a twentieth of its arithmetic. Plain products take 0.4 of its time there; from 1,024 positions on they are slower.

Shapes: B rows, H heads, T positions, K head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "llmkit_products"
MAX_POSITIONS = 512


def use_products(model: Any) -> None:
    """Let `model` train with this attention.

    Where a call does not fit (not in bf16, a cache, dropout, too many positions), torch's own attention runs as before.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The interface of transformers: (B, H, T, K) queries, keys, values -> (B, T, H, K)."""
    fits = (
        multiplies_in_bf16(query)
        and (attention_mask is None or sees_itself(attention_mask))
        and 1 < query.shape[2] == key.shape[2] <= MAX_POSITIONS
        and not options.get("dropout")
        and torch.is_grad_enabled()
    )
    if not fits:
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out
    groups = query.shape[1] // key.shape[1]
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    # Rotary embeddings leave queries and keys in fp32 under autocast.
    query, key, value = (x.to(torch.bfloat16) for x in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
    products = CausalProducts.apply(query, key, value, scale, attention_mask)  # type: ignore[no-untyped-call]
    return products.transpose(1, 2).contiguous(), None


def sees_itself(mask: Tensor) -> bool:
    """Whether every position sees at least itself: a softmax over nothing, as in padding on the left, is no number."""
    return mask.dtype == torch.bool and bool(mask.diagonal(dim1=-2, dim2=-1).all())


def multiplies_in_bf16(query: Tensor) -> bool:
    """Whether products of this tensor are made in bf16: its own format, or autocast's."""
    kind = query.device.type
    return query.dtype == torch.bfloat16 or (
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    )


class CausalProducts(torch.autograd.Function):
    """softmax(q k^T scale, masked) v, with the probabilities kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        """(B, H, T, K) three times -> (B, H, T, K). `mask` (B, 1, T, T): what is seen; None: what came before."""
        query, key, value = (x.contiguous() for x in (query, key, value))
        length = query.shape[2]
        hidden = torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device).triu_(1)
        if mask is not None:
            hidden = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
        scores = (query @ key.transpose(-1, -2)).mul_(scale).add_(hidden)
        shares = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(query, key, value, shares)
        ctx.scale = scale
        return shares @ value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        query, key, value, shares = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_shares = grad @ value.transpose(-1, -2)
        grad_scores = torch._softmax_backward_data(grad_shares, shares, -1, shares.dtype).mul_(ctx.scale)
        return grad_scores @ key, grad_scores.transpose(-1, -2) @ query, shares.transpose(-1, -2) @ grad, None, None
